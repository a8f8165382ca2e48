from __future__ import annotations

import pytest
from fuzz import FAULTS, fuzz, table
from subjects import SUBJECTS


@pytest.mark.slow
def test_damaged_files_of_every_kind_end_in_a_clear_line(tmp_path):
    """A bounded run; `python tests/fuzz/fuzz.py --count 20000` reads more."""
    outcomes, faults = fuzz(list(SUBJECTS), tmp_path, seed=1, seconds=60)
    assert not faults, "\n".join([table(outcomes), *faults])
    assert all(found.total() for found in outcomes.values()), table(outcomes)


def test_the_fuzz_notices_a_reader_that_fails(tmp_path, monkeypatch):
    from fuzz import read

    class Broken(Exception):
        pass

    def fails(path):
        raise Broken("no")

    monkeypatch.setitem(SUBJECTS, "tile.png", SUBJECTS["tile.png"]._replace(use=fails))
    assert read("tile.png", tmp_path / "tile.png", None)[0] == "other exception"
    assert {"crash", "hang", "silent"} <= set(FAULTS)
