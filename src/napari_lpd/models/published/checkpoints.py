"""Import checkpoints of the published LPD and PBIP code, without running code that such a file may contain.

A published checkpoint is a pickle that holds its configuration as OmegaConf objects. They are read through torch's
weights-only loader, with inert stand-ins for exactly the classes that such a file needs; anything else is refused.
"""

from __future__ import annotations

import io
import pickle
import typing
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from napari_lpd import __version__
from napari_lpd.core.classes import CLASSES, check_classes
from napari_lpd.core.errors import ModelError, SettingsError, absent, one_line
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.models.backbones.source import MIT
from napari_lpd.models.card import Card
from napari_lpd.models.checkpoint import save_checkpoint
from napari_lpd.models.encoder import STAGES, build_encoder
from napari_lpd.models.network import LPD, STAGES_USED
from napari_lpd.models.published.weight_files import (
    SAFETENSORS,
    check_finite,
    read_pickle,
    read_safetensors,
    weights_in,
)
from napari_lpd.models.published.weight_names import rename_mit, strip_wrappers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass

NEEDED = (
    *(
        f"l_fc{i}.{layer}.{kind}"
        for i in range(1, STAGES + 1)
        for layer in ("fc1", "fc2")
        for kind in ("weight", "bias")
    ),
    *(f"logit_scale{i}" for i in range(1, STAGES + 1)),
)  # of its weights
PUBLISHED_MPP = 0.5  # both data sets: 224 px at about 20x


class _Inert:
    """Inert stand-in for a configuration class, with its attributes."""

    def __init__(self, *_: object) -> None:
        pass


_CONFIGURATION_CLASSES = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "String", "Boolean")),
)
_ARRAY_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def import_official(
    path: Path, out: Path, classes: tuple[TissueClass, ...] = (), prototypes: Path | None = None
) -> Path:
    """Convert the published checkpoint `path` to a model file `out`.

    Class order, channel order (BGR), input statistics and merging stay as in the published code. The file has no
    map levels or thresholds: a cosine of 1 is a full map, and a class counts as present from a score of 0.5;
    `evaluate` chooses better thresholds on images with masks.

    Args:
        path: ``.pth`` of LPD or PBIP.
        out: ``.safetensors``.
        classes: Names and colours in the checkpoint's order; without them those of its data set, if it names one.
        prototypes: PBIP's prototype file (.pkl, .npz, .safetensors), which its checkpoints leave out.

    Raises:
        ModelError: unreadable, not such a checkpoint, or one that would run code.
    """
    stored = _read_pickle(path)
    state, config = strip_wrappers(weights_in(stored, path)), _plain(stored.get("cfg"))
    if missing := next((name for name in NEEDED if name not in state), ""):
        raise ModelError(f"{path}: not a checkpoint of the published LPD or PBIP code (no {missing} among its weights)")
    learned = "prototypes" in state
    if not learned:
        if prototypes is None:
            raise ModelError(f"{path}: a PBIP checkpoint without its prototypes: pass --prototypes FILE as well")
        state = {**state, "prototypes": normalize(read_prototypes(prototypes), dim=1)}
    classes = classes or _classes_of(path, config)
    check_classes(classes, str(path))
    settings = _settings_of(path, config, state, len(classes), learned)
    encoder = build_encoder(settings.encoder, statistics="tissue", channel_order="bgr")
    network = LPD(settings, len(classes), encoder)
    try:
        network.load_state_dict(rename_official(state))
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"{path}: weights do not fit {settings.encoder} ({str(error).splitlines()[-1]})") from error
    card = Card(
        classes=classes,
        settings=TrainSettings(model=settings, mpp=PUBLISHED_MPP, tile=224),
        tiles_per_class={tissue.name: 0 for tissue in classes},
        tiles=0,
        steps=steps if isinstance(steps := stored.get("iter", 0), int) and steps > 0 else 0,
        map_scale=tuple((network.scales.detach()[stage].item(),) * len(classes) for stage in STAGES_USED),
        presence=(0.5,) * len(classes),
        command=f"imported from {path.name}",
        versions={"napari-lpd": __version__},
    )
    return save_checkpoint(out, dict(network.state_dict()), card)


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of the published networks to ours (method.md §1)."""
    encoder = rename_mit({name: value for name, value in state.items() if name.startswith("encoder.")})
    ours = {f"encoder.backbone.{name}": value.float() for name, value in encoder.items()}
    ours["prototypes"] = state["prototypes"].float()
    ours["scales"] = torch.cat([state[f"logit_scale{i}"].reshape(1).float() for i in range(1, STAGES + 1)])
    for i in range(1, STAGES + 1):
        for position, layer in ((0, "fc1"), (2, "fc2")):
            for kind in ("weight", "bias"):
                ours[f"adapters.{i - 1}.{position}.{kind}"] = state[f"l_fc{i}.{layer}.{kind}"].float()
    return ours


def _read_pickle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(absent(path))
    allowed: list[Any] = [(_Inert, name) for name in _CONFIGURATION_CLASSES]
    allowed += [(typing.Any, "typing.Any"), defaultdict, dict, list, int, (dict, "__builtin__.dict")]
    allowed += [(list, "__builtin__.list"), (int, "__builtin__.long"), (int, "builtins.int")]
    stored = read_pickle(path, allowed)
    if not isinstance(stored, dict):
        raise ModelError(f"{path}: not a checkpoint of the published code")
    return stored


def _plain(node: object) -> Any:
    """Convert an inert configuration to dicts, lists and values."""
    if not isinstance(node, _Inert):
        return node
    content = node.__dict__.get("_content", node.__dict__.get("_val"))
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    return content


def _part(config: Any, name: str, default: Any = None) -> Any:
    return config.get(name, default) if isinstance(config, dict) else default


def _classes_of(path: Path, config: Any) -> tuple[TissueClass, ...]:
    name = str(_part(_part(config, "dataset"), "name", "")).lower()
    for known, classes in CLASSES.items():
        if known in name:
            return classes
    raise ModelError(f"{path}: data set {name!r} has no known class names: pass --classes JSON, in its order")


def _settings_of(
    path: Path, config: Any, state: Mapping[str, Tensor], class_count: int, learned: bool
) -> ModelSettings:
    name = str(_part(_part(_part(config, "model"), "backbone"), "config", "mit_b1"))
    if state["prototypes"].ndim != 2:
        raise ModelError(f"{path}: its prototypes are no table (prototypes, length)")
    count, dim = state["prototypes"].shape
    if name not in MIT:
        raise ModelError(f"{path}: encoder {name!r} is not known; wanted {', '.join(MIT)}")
    if count % class_count:
        raise ModelError(f"{path}: {count} prototypes do not divide among {class_count} classes")
    values = {
        "encoder": name,
        "encoder_weights": "random",
        "prototypes_per_class": count // class_count,
        "prototype_dim": dim,
        "hidden_ratio": state["l_fc1.fc1.weight"].shape[0] / max(dim, 1),
        "bank": "learned" if learned else "clustered",
        "normalise_prototypes": learned,
        "merge_predict": "soft",
        "stage_fusion": (0.3, 0.3, 0.4),
        "channel_order": "bgr",
        "input_statistics": "tissue",
    }
    try:
        return ModelSettings.build(values)
    except SettingsError as error:
        raise ModelError(f"{path}: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of NumPy arrays in plain containers, which refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return super().find_class(module, name)


def read_prototypes(path: Path) -> Tensor:
    """Read PBIP's prototypes (N, D), class-major, from its pickle of arrays, an .npz or a safetensors file.

    Raises:
        ModelError: missing, holding more than arrays, or without one two-dimensional array.
    """
    if not path.is_file():
        raise ModelError(absent(path, "prototype file"))
    try:
        if path.suffix.lower() == SAFETENSORS:
            stored: Any = {name: value.float().numpy() for name, value in read_safetensors(path).items()}
        elif path.suffix.lower() == ".npz":
            with np.load(path) as arrays:
                stored = {name: arrays[name] for name in arrays.files}
        else:
            stored = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # each format raises its own kinds; all mean that the file is refused
        raise ModelError(f"{path}: not accepted as prototypes ({one_line(error, 150)})") from error
    values = list(stored.values()) if isinstance(stored, dict) else [stored]
    tables = [value for value in values if isinstance(value, np.ndarray) and value.ndim == 2]
    if len(tables) != 1:
        raise ModelError(f"{path}: {len(tables)} two-dimensional arrays; wanted one, (prototypes, length)")
    try:
        table = torch.from_numpy(tables[0].astype(np.float32))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: its prototypes are no numbers ({one_line(error, 150)})") from error
    check_finite(path, {"prototypes": table})
    return table
