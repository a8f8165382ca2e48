"""Named training settings: what differs from the defaults in the papers, in their code, and for the controls."""

from __future__ import annotations

from typing import Any

_PUBLISHED_MODEL = {
    "channel_order": "bgr",
    "input_statistics": "tissue",
    "merge_predict": "soft",
    "stage_fusion": (0.3, 0.3, 0.4),
}
_PUBLISHED_CODE = {
    "model": _PUBLISHED_MODEL,
    "lr": 5e-5,
    "head_lr_factor": 1.0,
    "stain_jitter": 0.0,
    "size_jitter": 0.0,
    "blur_jitter": 0.0,
    "region_encoder": "swin_tiny_patch4_window7_224.ms_in1k",
    "region_size": 0,
    "max_regions": 0,
    "negatives": "all",
    "area_weight": 0.0005,
    "diversity_trains": "all",
    "decay_all": True,
}
_PUBLISHED_PAPERS = {
    "region_map": "fused",
    "region_threshold": 0.15,
    "region_size": 0,
    "max_regions": 0,
    "lr": 1e-5,
    "head_lr_factor": 1.0,
    "stain_jitter": 0.0,
    "size_jitter": 0.0,
    "blur_jitter": 0.0,
    "weight_decay": 3e-3,
    "epochs": 10,
}
_PBIP = {"diversity": "off", "warm_up": 0.0}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": {
        "model": {"head": "joint"},
        "epochs": 6,
        "batch": 24,
        "lr": 1e-3,
        "head_lr_factor": 1.0,
        "contrast_weight": 0.0,
    },
    "paper": _PUBLISHED_PAPERS
    | {
        "model": {"merge_train": "soft", "merge_predict": "soft", "stage_fusion": (0.3, 0.3, 0.4)},
        "stage_weights": (1.0, 1.0, 1.0, 1.0),
        "region_projection": "learned",
        "diversity": "projected",
        "diversity_temperature": 1.0,
        "diversity_trains": "all",
    },
    "official-code": _PUBLISHED_CODE | {"region_input": "raw", "diversity": "official-head"},
    "official-first-commit": _PUBLISHED_CODE | {"region_input": "raw", "diversity": "official-first-commit"},
    "pbip": _PBIP | {"model": {"bank": "clustered"}},
    "pbip-paper": _PUBLISHED_PAPERS
    | _PBIP
    | {
        "model": {"bank": "clustered", "stage_fusion": (0.3, 0.3, 0.4)},
        "stage_weights": (0.0, 1.0, 1.0, 1.0),
        "cluster_members": 100,
        "contrast": "sums",
        "contrast_temperature": 1.0,
        "contrast_weight": 0.5,
        "contrast_background": 0.5,
    },
    "pbip-official-code": _PUBLISHED_CODE
    | _PBIP
    | {
        "model": _PUBLISHED_MODEL | {"bank": "clustered", "normalise_prototypes": False},
        "region_input": "rescaled",
        "contrast": "pooled",
    },
    "random": _PBIP | {"model": {"bank": "random"}},
    "cam": _PBIP | {"model": {"bank": "linear", "prototypes_per_class": 1}, "contrast_weight": 0.0},
}
"""Training settings by name: what differs from the defaults (method.md §12; docs/explanation/method.md)."""

ABOUT = {
    "default": "LPD with settings that were measured on real tissue: about ten minutes on a laptop.",
    "fast": "LPD on features of a frozen encoder that are computed once: seconds on a laptop. For drawing and looking.",
    "paper": "LPD as its paper describes it. Slower, and for comparison.",
    "official-code": "LPD as its published code computes it; needs weights of a Swin-T.",
    "official-first-commit": "LPD as its code's first version computes it; needs weights of a Swin-T.",
    "pbip": "Clustered prototypes (PBIP) instead of learned ones, with our defaults: the counterpart in Explore.",
    "pbip-paper": "PBIP as its paper describes it; for comparison.",
    "pbip-official-code": "PBIP as its published code computes it; needs weights of a Swin-T.",
    "random": "Prototypes that are fixed random directions: a control.",
    "cam": "No prototypes, a plain class activation map: a control.",
}
"""Purpose of each preset, in a line."""
