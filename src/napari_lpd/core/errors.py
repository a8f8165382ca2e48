"""Errors that a user can fix: one line that names the object, the value and what was expected."""

NOTICE = "Research use only; not for diagnosis."  # stands in every result, report and window


class LpdError(Exception):
    """Base of every error that is reported as one line instead of a traceback."""


class SlideError(LpdError):
    """A slide cannot be opened or read, or gives no usable resolution."""


class DataError(LpdError):
    """Training data, regions or labels are missing or contradict each other."""


class ModelError(LpdError):
    """A checkpoint or encoder cannot be built or loaded."""


class SettingsError(LpdError):
    """A setting is unknown or out of its limits."""


class ExportError(LpdError):
    """A result cannot be read or written."""


def reason(error: Exception) -> str:
    """Return an error's text; of a file system's error without number and path, as our message names the file."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def one_line(error: Exception) -> str:
    """Return an error's text as one line, or its type where there is no text."""
    return " ".join(str(error).split()) or type(error).__name__
