"""Published encoders by name: how timm builds them, and what only their authors say of their input.

Every row was taken from the model's own card or code; docs/reference/encoders.md shows the table, with licences
and memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_lpd.models.card import Value

    Three = tuple[float, float, float]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
_HIBOU = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
_PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_SWIGLU: dict[str, Value] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_SCALED: dict[str, Value] = {"img_size": 224, "init_values": 1e-5}
_VIRCHOW = {**_SCALED, **_SWIGLU, "mlp_ratio": 5.3375}
_UNI2 = {**_SCALED, **_SWIGLU, "mlp_ratio": 5.33334, "embed_dim": 1536, "depth": 24, "num_heads": 24}
_NC = "non-commercial"


class Published(NamedTuple):
    """A published encoder.

    Attributes:
        name: timm's name of the network.
        arguments: Of timm's constructor, where they differ from that network's.
        statistics: Mean and deviation of its input, RGB in 0..1.
        licence: The weights' own.
        hub: Where they are kept; empty where timm's own download has them.
        timm: Whether that repository is timm's, so that its name alone loads it.
    """

    name: str
    arguments: Mapping[str, Value]
    statistics: tuple[Three, Three]
    licence: str
    hub: str = ""
    timm: bool = True


PUBLISHED = {
    "uni": Published("vit_large_patch16_224", _SCALED, IMAGENET, f"CC-BY-NC-ND 4.0, {_NC}", "MahmoodLab/UNI"),
    "uni2-h": Published(
        "vit_giant_patch14_224",
        {**_UNI2, "reg_tokens": 8, "no_embed_class": True},
        IMAGENET,
        f"CC-BY-NC-ND 4.0, {_NC}",
        "MahmoodLab/UNI2-h",
    ),
    "h-optimus-0": Published(
        "vit_giant_patch14_reg4_dinov2", {"img_size": 224}, _OPTIMUS, "Apache-2.0", "bioptimus/H-optimus-0"
    ),
    "h-optimus-1": Published(
        "vit_giant_patch14_reg4_dinov2",
        {"img_size": 224},
        _OPTIMUS,
        f"CC-BY-NC-ND 4.0, {_NC}",
        "bioptimus/H-optimus-1",
    ),
    "virchow": Published("vit_huge_patch14_224", _VIRCHOW, IMAGENET, "Apache-2.0", "paige-ai/Virchow"),
    "virchow2": Published(
        "vit_huge_patch14_224",
        {**_VIRCHOW, "reg_tokens": 4},
        IMAGENET,
        f"CC-BY-NC-ND 4.0, {_NC}",
        "paige-ai/Virchow2",
    ),
    "hibou-b": Published(
        "vit_base_patch14_reg4_dinov2", {"img_size": 224}, _HIBOU, "Apache-2.0", "histai/hibou-b", False
    ),
    "hibou-l": Published(
        "vit_large_patch14_reg4_dinov2", {"img_size": 224}, _HIBOU, "Apache-2.0", "histai/hibou-L", False
    ),
    "phikon": Published("vit_base_patch16_224", {}, IMAGENET, f"Owkin's, {_NC}", "owkin/phikon", False),
    "phikon-v2": Published("vit_large_patch16_224", _SCALED, IMAGENET, f"Owkin's, {_NC}", "owkin/phikon-v2", False),
    "prov-gigapath": Published(
        "vit_giant_patch14_dinov2",
        {"img_size": 224, "patch_size": 16},
        IMAGENET,
        "its own, for research",
        "prov-gigapath/prov-gigapath",
    ),
    **{
        f"dinov2-{short}": Published(f"vit_{size}_patch14_dinov2", {}, IMAGENET, "Apache-2.0")
        for short, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
    },
    **{
        f"dinov3-{short}": Published(f"vit_{size}_patch16_dinov3", {}, IMAGENET, "DINOv3 License (Meta's)")
        for short, size in (("s", "small"), ("b", "base"), ("l", "large"))
    },
    **{
        f"kather100k-{name}": Published(name, {}, _PLAIN, "CC-BY 4.0", f"1aurent/{name}.tiatoolbox-kather100k")
        for name in ("resnet18", "resnet34", "resnet50", "resnet101")
    },
}
"""Published encoders, by the names under which `model.encoder` knows them."""


def published(name: str) -> tuple[str, Published] | None:
    """Find a published encoder by its name here, or by that of its repository on the hub."""
    of_hub = name.partition("hf-hub:")[2].partition("@")[0].lower()
    for known, row in PUBLISHED.items():
        if known == name.lower() or (of_hub and row.hub.lower() == of_hub):
            return known, row
    return None
