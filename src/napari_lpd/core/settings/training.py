"""Settings of models and training.

Each field carries its help (`description`), its unit (in the help) and its limits. `gui/common/forms.py` makes forms
of these classes, `core/settings/base.py` reads them from files and from ``--set name=value``, and checkpoints store
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from napari_lpd.core.errors import one_line
from napari_lpd.core.reading import parse_json
from napari_lpd.core.settings.base import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

EMBEDDED_ENCODER = "tf_efficientnet_lite0"


def arguments_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Return arguments of a network that are written NAME=VALUE; values as JSON, or as text.

    Examples:
        >>> arguments_of(["init_values=1e-5", "mlp_layer=SwiGLUPacked"])
        {'init_values': 1e-05, 'mlp_layer': 'SwiGLUPacked'}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"encoder_arguments: wanted NAME=VALUE, not {one_line(pair, 60)!r}")
        try:
            found[name] = parse_json(text)
        except ValueError:
            found[name] = text
    return found


def _check_statistics(prefix: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if len(mean) != len(std) or len(mean) not in (0, 3):
        raise ValueError(f"{prefix}input_mean and {prefix}input_std: wanted three numbers each, or none of both")
    if mean and not (0 <= min(mean) <= max(mean) <= 1 and 0 < min(std) <= max(std) <= 1):
        raise ValueError(f"{prefix}input_mean and {prefix}input_std are of colours in 0..1, not 0..255")


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"{name}: wanted {len(weights)} weights, none below 0, not all 0")


class ModelSettings(Settings):
    """Set up the network: encoder and prototype head.

    Examples:
        >>> from napari_lpd import ModelSettings
        >>> ModelSettings(bank="clustered", prototypes_per_class=5).encoder
        'tf_efficientnet_lite0'
    """

    encoder: str = Field(
        default=EMBEDDED_ENCODER,
        description="Encoder: a timm name (ViTs, too), mit_b0, mit_b1, mit_b2, a published one (uni, h-optimus-0, …;"
        " docs/reference/encoders.md), hf-hub:OWNER/NAME, or local-dir:FOLDER.",
    )
    encoder_weights: str = Field(
        default="embedded",
        description="Initial weights: 'embedded', 'random', 'hub' (downloads, or reads the folder of local-dir:), or a"
        " file's path.",
    )
    encoder_arguments: tuple[str, ...] = Field(
        default=(),
        description='Arguments of timm\'s network beside those of its name, as ["init_values=1e-5","reg_tokens=4"]; a'
        " file of weights of a ViT shows most of them by itself.",
    )
    encoder_blocks: tuple[int, ...] = Field(
        default=(), description="The four blocks of a ViT, from 0, that make the maps; empty: evenly spaced."
    )
    input_mean: tuple[float, ...] = Field(
        default=(), description="Mean of the encoder's input, red, green, blue in 0..1; empty: its source's."
    )
    input_std: tuple[float, ...] = Field(default=(), description="Deviation of the encoder's input, in the same way.")
    prototypes_per_class: int = Field(default=3, ge=1, le=64, description="Prototypes per class, k.")
    prototype_dim: int = Field(default=512, ge=8, le=4096, description="Length of a prototype vector.")
    hidden_ratio: float = Field(
        default=0.5, ge=0.125, le=4, description="Hidden width of the adaptive layers, as a share of prototype_dim."
    )
    bank: Literal["learned", "seeded", "clustered", "random", "linear", "supervised"] = Field(
        default="learned",
        description="Origin of the prototypes: learned from a random start (LPD), seeded (learned from the clusters),"
        " clustered (fixed k-means centres, PBIP), random (fixed, a control), linear (none: a plain CAM, a control), or"
        " supervised (none: a segmenter trained on masks, as stage2 makes it).",
    )
    normalise_prototypes: bool = Field(
        default=True, description="Compare with projected prototypes of unit length; PBIP's code does not (P8)."
    )
    merge_train: Literal["mean", "soft"] = Field(
        default="mean", description="How a class's prototypes are merged in training (L10)."
    )
    merge_predict: Literal["mean", "soft"] = Field(
        default="mean", description="How a class's prototypes are merged in prediction (L10)."
    )
    stage_fusion: tuple[float, float, float] = Field(
        default=(0.0, 0.0, 1.0), description="Weights of the maps of stages 2, 3 and 4 in the fused map."
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        default="rgb", description="Channel order that the encoder sees; the published code's is bgr (L30)."
    )
    input_statistics: Literal["encoder", "tissue"] = Field(
        default="encoder",
        description="Mean and deviation that normalise the input: the encoder's own, or of H&E tissue (L30).",
    )
    head: Literal["stages", "joint"] = Field(
        default="stages",
        description="What prototypes are compared with: every stage by itself (as published), or stages 2 to 4 of a"
        " frozen encoder together, standardised and brought through a neck; presence then has a head of its own.",
    )
    necks: int = Field(
        default=1, ge=1, le=16, description="Joint head: necks that learn side by side; their maps are averaged."
    )
    neck_width: int = Field(default=256, ge=8, le=4096, description="Joint head: channels of a neck.")
    presence_width: int = Field(
        default=64, ge=4, le=1024, description="Joint head: channels whose mean and deviation tell presence."
    )

    @model_validator(mode="after")
    def _joint_maps_are_one(self) -> ModelSettings:
        if self.head == "joint" and (self.bank == "supervised" or self.stage_fusion != (0.0, 0.0, 1.0)):
            raise ValueError("model.head=joint has one map of all stages: leave model.stage_fusion as it is")
        return self

    @model_validator(mode="after")
    def _input_is_known(self) -> ModelSettings:
        arguments_of(self.encoder_arguments)
        _check_statistics("model.", self.input_mean, self.input_std)
        if self.input_mean and self.input_statistics == "tissue":
            raise ValueError("model.input_statistics=tissue has its own mean and deviation: leave model.input_mean out")
        if len(self.encoder_blocks) not in (0, 4):
            raise ValueError("model.encoder_blocks: wanted four blocks, or none")
        return self

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

    Examples:
        >>> from napari_lpd import ModelSettings, TrainSettings
        >>> TrainSettings(mpp=0.5, epochs=3, model=ModelSettings(prototypes_per_class=5)).model.prototypes_per_class
        5
    """

    RUNTIME_SETTINGS: ClassVar = frozenset({"threads", "workers", "device", "feature_folder"})

    model: ModelSettings = ModelSettings()
    mpp: float = Field(
        default=1.0,
        ge=0.05,
        le=20,
        title="µm per pixel",
        description="Resolution of the training tiles, in µm per pixel.",
    )
    tile: int = Field(
        default=128, ge=64, le=1024, title="tile edge, pixels", description="Edge of a tile, in pixels at mpp."
    )
    tile_step: int = Field(default=64, ge=16, le=1024, description="Step between tiles cut from a region, in pixels.")
    min_cover: float = Field(
        default=0.75, gt=0, le=1, description="Share of a tile that must lie in labelled regions to be used."
    )
    epochs: int = Field(default=8, ge=1, le=1000, description="Passes over the training tiles.")
    max_steps: int = Field(
        default=0, ge=0, title="maximum steps", description="Stop after this many steps; 0: no limit."
    )
    batch: int = Field(default=10, ge=1, le=4096, description="Tiles per step, of each process (torchrun).")
    lr: float = Field(default=3e-4, gt=0, le=1, description="Learning rate of the encoder.")
    head_lr_factor: float = Field(
        default=5.0, gt=0, le=1000, description="Learning rate of the prototype head, as a multiple of lr."
    )
    weight_decay: float = Field(default=1e-3, ge=0, le=1, description="AdamW weight decay.")
    warm_up: float = Field(
        default=0.16, ge=0, le=1, description="Share of the run with the classification loss alone (L22)."
    )
    stage_weights: tuple[float, float, float, float] = Field(
        default=(0.0, 0.1, 1.0, 1.0), description="Weight of each stage's classification loss (L9)."
    )
    region_encoder: str = Field(
        default=EMBEDDED_ENCODER,
        description="Frozen image encoder of the contrastive loss and of clustered banks, named as model.encoder.",
    )
    region_encoder_weights: str = Field(
        default="embedded", description="Its weights: 'embedded', 'random', 'hub' (downloads), or a file's path."
    )
    region_encoder_arguments: tuple[str, ...] = Field(
        default=(), description="Arguments of its network, as model.encoder_arguments."
    )
    region_input_mean: tuple[float, ...] = Field(
        default=(), description="Mean of its input, red, green, blue in 0..1; empty: its source's."
    )
    region_input_std: tuple[float, ...] = Field(default=(), description="Deviation of its input, in the same way.")
    region_size: int = Field(
        default=112, ge=0, le=1024, description="Edge to which regions are resized for it, in pixels; 0: as the tile."
    )
    region_map: Literal["stage4", "fused"] = Field(
        default="stage4", description="Maps that cut out regions: stage-4 prototypes, or the fused CAM (L11)."
    )
    region_input: Literal["unit", "raw", "rescaled"] = Field(
        default="unit",
        description="Maps in 0..1 with a threshold per map, or as published: raw logits (LPD's code), or their"
        " product rescaled per channel (PBIP's code), with a threshold per image (L12-L14).",
    )
    region_threshold: float = Field(
        default=0.5, ge=0, le=1, description="Share α of a map's maximum from which a location is foreground."
    )
    region_projection: Literal["fixed", "learned"] = Field(
        default="fixed", description="Region embeddings are compared as they are, or through a linear ψ (L17)."
    )
    max_regions: int = Field(
        default=32, ge=0, description="Maximum of (image, prototype) pairs contrasted per step, random; 0: all."
    )
    contrast: Literal["infonce", "pooled", "sums"] = Field(
        default="infonce",
        description="InfoNCE per region (LPD), pooled over the batch (PBIP's code), or of summed similarities (PBIP's"
        " paper).",
    )
    negatives: Literal["other-classes", "all"] = Field(
        default="other-classes", description="Prototypes that serve as negatives: other classes', or all others (L18)."
    )
    contrast_weight: float = Field(default=0.1, ge=0, description="Weight of the contrastive loss, λ_sim; 0: off.")
    contrast_background: float = Field(
        default=1.0, ge=0, description="Weight of the background part of the contrastive loss, θ2."
    )
    contrast_temperature: float = Field(default=0.07, gt=0, description="Temperature of the contrastive loss.")
    area_weight: float = Field(
        default=0.0, ge=0, description="Weight, inside the contrastive loss, of the stage-4 maps' mean (L21)."
    )
    diversity: Literal["centred", "projected", "official-head", "official-first-commit", "off"] = Field(
        default="centred",
        description="Diversity loss: the paper's equations on projected prototypes, as they are or centred (less what"
        " depends only on the location in the tile), or one of the published codes.",
    )
    diversity_weight: float = Field(default=0.5, ge=0, description="Weight of the diversity loss, λ_div.")
    diversity_temperature: float = Field(
        default=0.07, gt=0, description="Temperature τ_div of the cosines in the diversity loss (L6)."
    )
    diversity_trains: Literal["prototypes", "all"] = Field(
        default="prototypes",
        description="What the diversity loss trains: prototypes and their adaptive layers, or the encoder too (as"
        " published), which then learns features of the location in the tile.",
    )
    pixel_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the cross-entropy of the class maps at painted pixels (strokes, corrections).",
    )
    share_weight: float = Field(
        default=1.0, ge=0, description="Weight of the loss of shares: how much of the tissue is of which class."
    )
    share_tolerance: float = Field(
        default=0.1, ge=0, le=1, description="Difference from a known share that costs nothing."
    )
    decay_all: bool = Field(
        default=False, description="Decay biases, norms, scales and prototypes too, as the published code does (L42)."
    )
    lr_warm_up: float = Field(default=0.0, ge=0, lt=1, description="Share of the run over which the rate rises.")
    lr_power: float = Field(default=1.0, gt=0, le=10, description="Power of the polynomial decay of the rate.")
    cluster_members: int = Field(
        default=0, ge=0, description="Clustered bank: tiles nearest a centre whose mean is its prototype; 0: all (P3)."
    )
    white_limit: float = Field(
        default=0.5, gt=0, le=1, description="Clustered bank: tiles with a larger share of white are left out (P4)."
    )
    valid_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the tiles, by slide or patient, held out to choose the best epoch where the data have"
        " no validation masks.",
    )
    freeze_norm: bool = Field(
        default=True, description="Keep the encoder's batch statistics as pretrained (steadier with small batches)."
    )
    augment: bool = Field(
        default=True, description="Flips, quarter turns, jitter of stain, size and sharpness of training tiles."
    )
    stain_jitter: float = Field(
        default=0.3, ge=0, le=0.9, description="Half the range of each stain's amount around 1, in training."
    )
    size_jitter: float = Field(
        default=0.15, ge=0, le=0.5, description="Half the range of the tiles' size around 1, in training."
    )
    blur_jitter: float = Field(
        default=0.5, ge=0, le=5, description="Largest blur of the tiles, in training: standard deviation in pixels."
    )
    stain_normalisation: Literal["none", "slide"] = Field(
        default="none",
        description="slide: move each slide's colours to the training tiles', in training and prediction (Reinhard,"
        " in optical density).",
    )
    places: int = Field(
        default=64, ge=0, description="Joint head: places of each tile that a step learns from, random; 0: all."
    )
    feature_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Joint head: share of a tile's channels left out in training; 0.5 for few regions of one slide.",
    )
    presence_weight: float = Field(
        default=1.0, ge=0, description="Joint head: weight of the classification loss of its presence scores."
    )
    presence_dropout: float = Field(
        default=0.5, ge=0, lt=1, description="Joint head: share of what tells presence that is left out in training."
    )
    self_training: float = Field(
        default=0.33,
        ge=0,
        lt=1,
        description="Joint head: share of the run, at its end, that learns from the model's own maps, too, as far as"
        " the tiles' labels allow them.",
    )
    self_training_confidence: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="Joint head: confidence from which a place of its own maps counts.",
    )
    feature_folder: str = Field(
        default="",
        description="Joint head: folder that keeps the frozen encoder's features for the next training; empty: none.",
    )
    patience: int = Field(
        default=0, ge=0, description="Stop when this many epochs in a row were no better on validation; 0: never."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the encoders; auto: the graphics card's fastest, float32 elsewhere.",
    )
    workers: int = Field(default=0, ge=0, le=64, description="Processes that read tiles from a folder.")
    threads: int = Field(default=0, ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")

    @model_validator(mode="after")
    def _something_is_classified(self) -> TrainSettings:
        _check_weights("stage_weights", self.stage_weights)
        if self.negatives == "all" and (self.region_map == "fused" or self.contrast == "sums"):
            raise ValueError("negatives=all: whole classes are contrasted by region_map=fused and contrast=sums")
        return self

    @model_validator(mode="after")
    def _input_of_regions_is_known(self) -> TrainSettings:
        arguments_of(self.region_encoder_arguments)
        _check_statistics("region_", self.region_input_mean, self.region_input_std)
        return self

    @model_validator(mode="after")
    def _joint_head_has_its_forms(self) -> TrainSettings:
        published = self.diversity.startswith("official") or self.contrast != "infonce" or self.negatives == "all"
        if self.model.head == "joint" and (published or self.region_map == "fused" or self.area_weight):
            raise ValueError("model.head=joint has the default forms of contrast and diversity, no published ones")
        return self

    @model_validator(mode="after")
    def _terms_fit_bank(self) -> TrainSettings:
        if self.model.bank in ("linear", "supervised") and (self.contrast_weight or self.diversity != "off"):
            raise ValueError(f"model.bank={self.model.bank} has no prototypes: set contrast_weight=0 and diversity=off")
        return self
