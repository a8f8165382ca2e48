"""``train`` with a ViT by the command line: what it says of the encoder's input, and the line for what cannot be."""

from __future__ import annotations

import json

import pytest
import timm
from safetensors.torch import save_file

from napari_lpd.cli.main import main
from napari_lpd.data.regions import write_regions

SIZE = ["embed_dim=32", "depth=4", "num_heads=2"]
QUICK = ["tile=64", "tile_step=48", "batch=4", "epochs=1", "threads=1", "model.prototype_dim=32", "model.neck_width=8"]


@pytest.fixture
def train(tiny_tiff, tiny_regions, classes, tmp_path, capsys):
    """Train on the tiny slide: exit code, what was printed, and the errors."""
    regions = write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [tissue.name for tissue in classes]}), "utf-8")
    given = ["--slide", str(tiny_tiff), "--regions", str(regions), "--classes", str(tmp_path / "classes.json")]

    def run(*options, out="run"):
        changes = [part for value in QUICK for part in ("--set", value)]
        code = main(["train", "--preset", "fast", *given, "--out", str(tmp_path / out), *changes, *options])
        return code, *capsys.readouterr()

    return run


def test_training_with_a_vit_says_what_its_input_is(train, tmp_path):
    state = timm.create_model("vit_large_patch16_224", num_classes=0, init_values=1e-5, img_size=112, embed_dim=32,
                              depth=4, num_heads=2).state_dict()  # fmt: skip
    save_file(state, tmp_path / "lab.safetensors")
    size = f"model.encoder_arguments={json.dumps(SIZE)}"
    options = [
        "--encoder",
        "vit_large_patch16_224",
        "--encoder-weights",
        str(tmp_path / "lab.safetensors"),
        "--set",
        size,
    ]
    code, _, errors = train(*options)
    assert code == 2
    assert "lab.safetensors" in errors and "input_mean and input_std" in errors
    assert len(errors.strip().splitlines()) == 1
    given = ["--set", "model.input_mean=[0.7,0.5,0.6]", "--set", "model.input_std=[0.2,0.25,0.15]"]
    code, printed, _ = train(*options, *given)
    assert code == 0
    assert "vit_large_patch16_224, input mean 0.7, 0.5, 0.6, deviation 0.2, 0.25, 0.15 (settings)" in printed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.input_mean=[0.7,0.5]", "model.input_std=[0.2,0.2]"], "wanted three numbers each"),
        (["model.encoder_blocks=[0,1,2]"], "wanted four blocks"),
        (["model.encoder_blocks=[0,1,2,9]", "model.encoder=vit_tiny_patch16_224", "model.encoder_weights=random",
          'model.encoder_arguments=["depth=4"]'], "encoder_blocks=[0, 1, 2, 9]"),
        (["model.encoder=vit_nothing", "model.encoder_weights=random"], "timm knows no such network"),
        (["model.encoder=local-dir:nowhere", "model.encoder_weights=hub"], "local-dir:nowhere"),
        (["model.encoder_arguments=[\"depth\"]"], "wanted NAME=VALUE"),
    ],
)  # fmt: skip
def test_an_encoder_that_cannot_be_is_one_line(train, changes, said):
    code, _, errors = train(*(part for change in changes for part in ("--set", change)))
    assert code == 2
    assert said in errors
    assert len(errors.strip().splitlines()) == 1
