"""Every file of JSON that the program reads, in every form that JSON comes in: it is read, or is one line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.core.classes import read_classes
from napari_lpd.core.errors import LpdError
from napari_lpd.core.locks import holder
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.results import read_roles
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import read_project
from napari_lpd.data.regions import read_regions
from napari_lpd.evaluation.described import description_of
from napari_lpd.models.backbones.source import _beside
from napari_lpd.models.joint.store import FeatureStore
from napari_lpd.results.export.geojson import read_mask
from napari_lpd.training.papers.segmenter import _check_made_with
from napari_lpd.training.runs.folder import read_arguments

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [0, 9], [9, 9], [0, 0]]]}
DRAWN = {"type": "Feature", "geometry": SQUARE, "properties": {"classification": {"name": "Drüse"}}}
ELSEWHERE = {"machine": "x", "pid": 1, "started": 1, "since": "2026", "token": "a"}


def settings_of(kind: type) -> Callable[[Path], object]:
    return lambda path: read_settings(kind, path, [])


# What a file is called, what reads it, and a sound content.
READERS: dict[str, tuple[str, Callable[[Path], object], Any]] = {
    "classes": ("c.json", read_classes, {"classes": ["Drüse", "Fett"], "mpp": 0.5}),
    "training settings": ("s.json", settings_of(TrainSettings), {"tile": 96, "model": {"prototypes_per_class": 2}}),
    "prediction settings": ("s.json", settings_of(PredictSettings), {"tile": 96}),
    "evaluation settings": ("s.json", settings_of(EvaluateSettings), {}),
    "roles": ("r.json", read_roles, {"tumour": ["Drüse"]}),
    "regions": ("r.geojson", read_regions, {"type": "FeatureCollection", "features": [DRAWN]}),
    "mask": ("m.geojson", read_mask, {"type": "FeatureCollection", "features": [DRAWN]}),
    "project": ("p.json", read_project, {"classes": [{"name": "Drüse"}], "slides": []}),
    "described": ("classes.json", lambda path: description_of(path.parent), {"classes": ["Drüse"], "mpp": 0.5}),
    "configuration": ("config.json", lambda path: _beside(path.with_name("w.bin"), "x"), {"architecture": "x"}),
    "preprocessor": ("preprocessor_config.json", lambda path: _beside(path.with_name("w.bin"), "x"), {}),
    "features": ("features.json", lambda path: vars(FeatureStore("a", 1, path.parent)), {"format": 1, "encoder": "a"}),
    "arguments": ("arguments.json", lambda path: read_arguments(path.parent), ["train", "--out", "x"]),
    "masks": ("made_with.json", lambda path: _check_made_with({"a": "Drüse"}, path.parent), {"a": "Drüse"}),
    "lock": ("a.lock", holder, ELSEWHERE),
}
NAMES = st.sampled_from(
    [
        "classes",
        "mpp",
        "tile",
        "model",
        "type",
        "features",
        "geometry",
        "coordinates",
        "properties",
        "classification",
        "name",
        "slides",
        "path",
        "regions",
        "architecture",
        "pretrained_cfg",
        "model_args",
        "mean",
        "std",
        "image_mean",
        "image_std",
        "format",
        "encoder",
        "machine",
        "pid",
        "token",
        "since",
        "started",
        "tumour",
        "color",
        "napari_lpd",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    LEAVES | st.text(max_size=6), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5)
)
UNSOUND = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"classes":' * 5000 + "1" + "}" * 5000,
    "NaN": '{"tile": NaN, "mpp": NaN, "classes": [NaN]}',
    "infinite": '{"tile": -Infinity, "mpp": Infinity, "features": [Infinity]}',
    "beyond a float": '{"tile": 1e999, "mpp": 1e999, "pid": 1e999}',
    "many digits": '{"tile": 1' + "0" * 5000 + "}",
    "twice": '{"tile": 1, "tile": 2, "classes": [], "classes": [], "format": 1, "format": 2}',
    "half a character": '{"classes": ["\\ud800"], "type": "\\udfff"}',
    "a list": "[]",
    "a list of lists": "[[[1]]]",
    "a number": "1",
    "null": "null",
    "text": '"x"',
    "cut": '{"classes": ["Dr',
    "more behind it": "{} {}",
    "nothing": "",
}
MAY_BE_ANOTHERS = ("lock", "mask", "configuration", "preprocessor", "described")  # passed over, or not looked at whole
ENCODINGS = {
    "utf-8": (b"", "utf-8"),
    "utf-8 with a mark": (codecs.BOM_UTF8, "utf-8"),
    "utf-16": (codecs.BOM_UTF16_LE, "utf-16-le"),
    "utf-16, big end": (codecs.BOM_UTF16_BE, "utf-16-be"),
    "utf-16 without a mark": (b"", "utf-16-le"),
}


def encoded(text: str, encoding: str) -> bytes:
    mark, name = ENCODINGS[encoding]
    return mark + text.encode(name)


def looked_at(reader: str, folder: Path, content: bytes) -> object:
    """Read a file; what comes back, or the error's line."""
    name, read, _ = READERS[reader]
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    try:
        return read(folder / name)
    except LpdError as error:
        assert len(str(error).splitlines()) == 1, error
        assert str(folder) in str(error) or name in str(error), error
        return str(error)


@pytest.mark.parametrize("reader", READERS)
def test_a_sound_file_says_the_same_in_every_encoding(tmp_path, reader):
    text = json.dumps(READERS[reader][2], ensure_ascii=False)
    found = [looked_at(reader, tmp_path / "a", encoded(text, encoding)) for encoding in ENCODINGS]
    assert all(repr(each) == repr(found[0]) for each in found), found


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_sound_json_is_one_line_in_every_encoding(tmp_path, reader):
    for name, text in UNSOUND.items():
        for encoding in ENCODINGS:
            found = looked_at(reader, tmp_path / "a", encoded(text, encoding))
            assert isinstance(found, str) or reader in ("lock", "mask", "configuration", "preprocessor", "described"), (
                name
            )


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_value_is_read_or_is_one_line(tmp_path_factory, reader, data):
    sound, value = READERS[reader][2], data.draw(VALUES)
    if isinstance(sound, dict) and data.draw(st.booleans()):
        value = {**sound, data.draw(NAMES | st.sampled_from(sorted(sound) or ["x"])): value}
    folder = tmp_path_factory.getbasetemp() / "json"
    looked_at(reader, folder, encoded(json.dumps(value), data.draw(st.sampled_from(sorted(ENCODINGS)))))
    (folder / READERS[reader][0]).unlink()
