"""Settings of models and training.

Each field carries its help (`description`), its unit (in the help) and its limits. `gui/common/forms.py` makes forms
of these classes, `core/settings/base.py` reads them from files and from ``--set name=value``, and checkpoints store
them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from napari_lpd.core.settings.base import Settings

EMBEDDED_ENCODER = "tf_efficientnet_lite0"


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"{name}: wanted {len(weights)} weights, none below 0, not all 0")


class ModelSettings(Settings):
    """Set up the network: encoder and prototype head.

    Example:
        >>> from napari_lpd import ModelSettings
        >>> ModelSettings(bank="clustered", prototypes_per_class=5).encoder
        'tf_efficientnet_lite0'
    """

    encoder: Annotated[str, Field(description="Encoder: a timm name, or mit_b0, mit_b1, mit_b2.")] = EMBEDDED_ENCODER
    encoder_weights: Annotated[
        str, Field(description="Initial weights: 'embedded', 'random', 'hub' (downloads), or a file's path.")
    ] = "embedded"
    prototypes_per_class: Annotated[int, Field(ge=1, le=64, description="Prototypes per class, k.")] = 3
    prototype_dim: Annotated[int, Field(ge=8, le=4096, description="Length of a prototype vector.")] = 512
    hidden_ratio: Annotated[
        float, Field(ge=0.125, le=4, description="Hidden width of the adaptive layers, as a share of prototype_dim.")
    ] = 0.5
    bank: Annotated[
        Literal["learned", "seeded", "clustered", "random", "linear", "supervised"],
        Field(
            description="Origin of the prototypes: learned from a random start (LPD), seeded (learned from the"
            " clusters), clustered (fixed k-means centres, PBIP), random (fixed, a control), linear (none: a plain"
            " CAM, a control), or supervised (none: a segmenter trained on masks, as stage2 makes it)."
        ),
    ] = "learned"
    normalise_prototypes: Annotated[
        bool, Field(description="Compare with projected prototypes of unit length; PBIP's code does not (P8).")
    ] = True
    merge_train: Annotated[
        Literal["mean", "soft"], Field(description="How a class's prototypes are merged in training (L10).")
    ] = "mean"
    merge_predict: Annotated[
        Literal["mean", "soft"], Field(description="How a class's prototypes are merged in prediction (L10).")
    ] = "mean"
    stage_fusion: Annotated[
        tuple[float, float, float], Field(description="Weights of the maps of stages 2, 3 and 4 in the fused map.")
    ] = (0.0, 0.0, 1.0)
    channel_order: Annotated[
        Literal["rgb", "bgr"],
        Field(description="Channel order that the encoder sees; the published code's is bgr (L30)."),
    ] = "rgb"
    input_statistics: Annotated[
        Literal["encoder", "tissue"],
        Field(description="Mean and deviation that normalise the input: the encoder's own, or of H&E tissue (L30)."),
    ] = "encoder"

    @model_validator(mode="after")
    def _linear_has_one(self) -> ModelSettings:
        if self.bank in ("linear", "supervised") and self.prototypes_per_class != 1:
            raise ValueError(f"model.bank={self.bank} has no prototypes: set model.prototypes_per_class=1")
        return self

    @model_validator(mode="after")
    def _something_is_fused(self) -> ModelSettings:
        _check_weights("stage_fusion", self.stage_fusion)
        return self


class TrainSettings(Settings):
    """Set how a model is trained (method.md §12, default column, unless noted otherwise).

    Example:
        >>> from napari_lpd import ModelSettings, TrainSettings
        >>> TrainSettings(mpp=0.5, epochs=3, model=ModelSettings(prototypes_per_class=5)).model.prototypes_per_class
        5
    """

    RUNTIME_SETTINGS: ClassVar = frozenset({"threads", "workers", "device"})

    model: ModelSettings = ModelSettings()
    mpp: Annotated[
        float,
        Field(ge=0.05, le=20, title="µm per pixel", description="Resolution of the training tiles, in µm per pixel."),
    ] = 1.0
    tile: Annotated[
        int, Field(ge=64, le=1024, title="tile edge, pixels", description="Edge of a tile, in pixels at mpp.")
    ] = 128
    tile_step: Annotated[int, Field(ge=16, le=1024, description="Step between tiles cut from a region, in pixels.")] = (
        64
    )
    min_cover: Annotated[
        float, Field(gt=0, le=1, description="Share of a tile that must lie in labelled regions to be used.")
    ] = 0.75
    epochs: Annotated[int, Field(ge=1, le=1000, description="Passes over the training tiles.")] = 8
    max_steps: Annotated[
        int, Field(ge=0, title="maximum steps, 0: no limit", description="Stop after this many steps; 0: no limit.")
    ] = 0
    batch: Annotated[int, Field(ge=1, le=4096, description="Tiles per step, of each process (torchrun).")] = 10
    lr: Annotated[float, Field(gt=0, le=1, description="Learning rate of the encoder.")] = 3e-4
    head_lr_factor: Annotated[
        float, Field(gt=0, le=1000, description="Learning rate of the prototype head, as a multiple of lr.")
    ] = 5.0
    weight_decay: Annotated[float, Field(ge=0, le=1, description="AdamW weight decay.")] = 1e-3
    warm_up: Annotated[
        float, Field(ge=0, le=1, description="Share of the run with the classification loss alone (L22).")
    ] = 0.16
    stage_weights: Annotated[
        tuple[float, float, float, float], Field(description="Weight of each stage's classification loss (L9).")
    ] = (0.0, 0.1, 1.0, 1.0)
    region_encoder: Annotated[
        str, Field(description="Frozen image encoder of the contrastive loss and of clustered banks: a timm name.")
    ] = EMBEDDED_ENCODER
    region_encoder_weights: Annotated[
        str, Field(description="Its weights: 'embedded', 'random', 'hub' (downloads), or a file's path.")
    ] = "embedded"
    region_size: Annotated[
        int, Field(ge=0, le=1024, description="Edge to which regions are resized for it, in pixels; 0: as the tile.")
    ] = 112
    region_map: Annotated[
        Literal["stage4", "fused"],
        Field(description="Maps that cut out regions: stage-4 prototypes, or the fused CAM (L11)."),
    ] = "stage4"
    region_input: Annotated[
        Literal["unit", "raw", "rescaled"],
        Field(
            description="Maps in 0..1 with a threshold per map, or as published: raw logits (LPD's code), or their"
            " product rescaled per channel (PBIP's code), with a threshold per image (L12-L14)."
        ),
    ] = "unit"
    region_threshold: Annotated[
        float, Field(ge=0, le=1, description="Share α of a map's maximum from which a location is foreground.")
    ] = 0.5
    region_projection: Annotated[
        Literal["fixed", "learned"],
        Field(description="Region embeddings are compared as they are, or through a linear ψ (L17)."),
    ] = "fixed"
    max_regions: Annotated[
        int, Field(ge=0, description="Maximum of (image, prototype) pairs contrasted per step, random; 0: all.")
    ] = 32
    contrast: Annotated[
        Literal["infonce", "pooled", "sums"],
        Field(
            description="InfoNCE per region (LPD), pooled over the batch (PBIP's code), or of summed similarities"
            " (PBIP's paper)."
        ),
    ] = "infonce"
    negatives: Annotated[
        Literal["other-classes", "all"],
        Field(description="Prototypes that serve as negatives: other classes', or all others (L18)."),
    ] = "other-classes"
    contrast_weight: Annotated[float, Field(ge=0, description="Weight of the contrastive loss, λ_sim; 0: off.")] = 0.1
    contrast_background: Annotated[
        float, Field(ge=0, description="Weight of the background part of the contrastive loss, θ2.")
    ] = 1.0
    contrast_temperature: Annotated[float, Field(gt=0, description="Temperature of the contrastive loss.")] = 0.07
    area_weight: Annotated[
        float, Field(ge=0, description="Weight, inside the contrastive loss, of the stage-4 maps' mean (L21).")
    ] = 0.0
    diversity: Annotated[
        Literal["centred", "projected", "official-head", "official-first-commit", "off"],
        Field(
            description="Diversity loss: the paper's equations on projected prototypes, as they are or centred (less"
            " what depends only on the location in the tile), or one of the published codes."
        ),
    ] = "centred"
    diversity_weight: Annotated[float, Field(ge=0, description="Weight of the diversity loss, λ_div.")] = 0.5
    diversity_temperature: Annotated[
        float, Field(gt=0, description="Temperature τ_div of the cosines in the diversity loss (L6).")
    ] = 0.07
    diversity_trains: Annotated[
        Literal["prototypes", "all"],
        Field(
            description="What the diversity loss trains: prototypes and their adaptive layers, or the encoder too (as"
            " published), which then learns features of the location in the tile."
        ),
    ] = "prototypes"
    decay_all: Annotated[
        bool, Field(description="Decay biases, norms, scales and prototypes too, as the published code does (L42).")
    ] = False
    lr_warm_up: Annotated[float, Field(ge=0, lt=1, description="Share of the run over which the rate rises.")] = 0.0
    lr_power: Annotated[float, Field(gt=0, le=10, description="Power of the polynomial decay of the rate.")] = 1.0
    cluster_members: Annotated[
        int, Field(ge=0, description="Clustered bank: tiles nearest a centre whose mean is its prototype; 0: all (P3).")
    ] = 0
    white_limit: Annotated[
        float, Field(gt=0, le=1, description="Clustered bank: tiles with a larger share of white are left out (P4).")
    ] = 0.5
    valid_share: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of the tiles, by slide or patient, held out to choose the best epoch"
            " where the data have no validation masks.",
        ),
    ] = 0.1
    freeze_norm: Annotated[
        bool, Field(description="Keep the encoder's batch statistics as pretrained (steadier with small batches).")
    ] = True
    augment: Annotated[
        bool, Field(description="Flips, quarter turns, jitter of stain, size and sharpness of training tiles.")
    ] = True
    stain_jitter: Annotated[
        float, Field(ge=0, le=0.9, description="Half the range of each stain's amount around 1, in training.")
    ] = 0.3
    size_jitter: Annotated[
        float, Field(ge=0, le=0.5, description="Half the range of the tiles' size around 1, in training.")
    ] = 0.15
    blur_jitter: Annotated[
        float, Field(ge=0, le=5, description="Largest blur of the tiles, in training: standard deviation in pixels.")
    ] = 0.5
    stain_normalisation: Annotated[
        Literal["none", "slide"],
        Field(
            description="slide: move each slide's colours to the training tiles', in training and prediction"
            " (Reinhard, in optical density)."
        ),
    ] = "none"
    patience: Annotated[
        int, Field(ge=0, description="Stop when this many epochs in a row were no better on validation; 0: never.")
    ] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="Number format of the encoders; auto: the graphics card's fastest, float32 elsewhere."),
    ] = "auto"
    workers: Annotated[int, Field(ge=0, le=64, description="Processes that read tiles from a folder.")] = 0
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    seed: Annotated[int, Field(ge=0, description="Seed of everything random.")] = 0

    @model_validator(mode="after")
    def _something_is_classified(self) -> TrainSettings:
        _check_weights("stage_weights", self.stage_weights)
        if self.negatives == "all" and (self.region_map == "fused" or self.contrast == "sums"):
            raise ValueError("negatives=all: whole classes are contrasted by region_map=fused and contrast=sums")
        return self

    @model_validator(mode="after")
    def _terms_fit_bank(self) -> TrainSettings:
        if self.model.bank in ("linear", "supervised") and (self.contrast_weight or self.diversity != "off"):
            raise ValueError(f"model.bank={self.model.bank} has no prototypes: set contrast_weight=0 and diversity=off")
        return self
