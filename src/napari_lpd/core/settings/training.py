"""Everything a user can set: one source for form, flag and file.

Each field carries its help (`description`), its unit (in the help) and its limits. `gui/_forms.py` makes
forms of these classes, `commands.py` reads them from a file and from ``--set name=value``, and every checkpoint
and prediction stores the object it was made with.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from napari_lpd.core.settings.base import Settings

EMBEDDED_ENCODER = "tf_efficientnet_lite0"


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    if min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(f"{name}: wanted {len(weights)} weights, none below 0, not all 0")


class ModelSettings(Settings):
    """The network: encoder and prototype head."""

    encoder: Annotated[str, Field(description="Encoder: a timm name, or mit_b0, mit_b1, mit_b2.")] = EMBEDDED_ENCODER
    encoder_weights: Annotated[
        str, Field(description="Weights at the start: 'embedded', 'random', 'hub' (downloads), or a file's path.")
    ] = "embedded"
    prototypes_per_class: Annotated[int, Field(ge=1, le=64, description="Prototypes per class, k.")] = 3
    prototype_dim: Annotated[int, Field(ge=8, le=4096, description="Length of a prototype vector.")] = 512
    hidden_ratio: Annotated[
        float, Field(ge=0.125, le=4, description="Hidden width of the adaptive layers, as a share of prototype_dim.")
    ] = 0.5
    bank: Annotated[
        Literal["learned", "seeded", "clustered", "random", "linear", "supervised"],
        Field(
            description="How the prototypes are had: learned from a random start (LPD), seeded (learned from the"
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
        Field(description="Mean and deviation taken off the input: the encoder's own, or those of H&E tissue (L30)."),
    ] = "encoder"

    @model_validator(mode="after")
    def _linear_has_one(self) -> ModelSettings:
        if self.bank in ("linear", "supervised") and self.prototypes_per_class != 1:
            raise ValueError(f"model.bank={self.bank} has no prototypes: it goes with model.prototypes_per_class=1")
        return self

    @model_validator(mode="after")
    def _something_is_fused(self) -> ModelSettings:
        _check_weights("stage_fusion", self.stage_fusion)
        return self


class TrainSettings(Settings):
    """How a model is trained (method.md §12, default column, unless said otherwise)."""

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
        int, Field(ge=0, title="steps at most, 0: all", description="Stop after this many steps; 0 means no limit.")
    ] = 0
    batch: Annotated[
        int, Field(ge=1, le=4096, description="Tiles per step; of several processes (torchrun) each takes as many.")
    ] = 10
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
        float, Field(ge=0, le=1, description="Share α of a map's maximum from which a place is foreground.")
    ] = 0.5
    region_projection: Annotated[
        Literal["fixed", "learned"],
        Field(description="Region embeddings are compared as they are, or through a linear ψ (L17)."),
    ] = "fixed"
    max_regions: Annotated[
        int, Field(ge=0, description="Most (image, prototype) pairs contrasted per step, drawn at random; 0: all.")
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
        Field(description="Prototypes to be told from: other classes', or all others (L18)."),
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
            " what depends only on the place in the tile), or one of the published codes."
        ),
    ] = "centred"
    diversity_weight: Annotated[float, Field(ge=0, description="Weight of the diversity loss, λ_div.")] = 0.5
    diversity_temperature: Annotated[
        float, Field(gt=0, description="Temperature τ_div of the cosines in the diversity loss (L6).")
    ] = 0.07
    diversity_trains: Annotated[
        Literal["prototypes", "all"],
        Field(
            description="What the diversity loss moves: prototypes and their adaptive layers, or the encoder too (as"
            " published), which then serves it with features of the place in the tile."
        ),
    ] = "prototypes"
    decay_all: Annotated[
        bool, Field(description="Decay biases, norms, scales and prototypes too, as the published code does (L42).")
    ] = False
    lr_warm_up: Annotated[float, Field(ge=0, lt=1, description="Share of the run over which the rate rises.")] = 0.0
    lr_power: Annotated[float, Field(gt=0, le=10, description="Power of the polynomial decay of the rate.")] = 1.0
    cluster_members: Annotated[
        int, Field(ge=0, description="Clustered bank: tiles nearest a centre that make its prototype; 0: all (P3).")
    ] = 0
    white_limit: Annotated[
        float, Field(gt=0, le=1, description="Clustered bank: tiles with a larger share of white are left out (P4).")
    ] = 0.5
    valid_share: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of the tiles, by source image, kept apart to choose the best epoch"
            " where the data bring no validation masks.",
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
        Field(description="Of the encoders' arithmetic; auto: the graphics card's fastest, float32 elsewhere."),
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
            raise ValueError(
                f"model.bank={self.model.bank} has no prototypes: it goes with contrast_weight=0 and diversity=off"
            )
        return self


class CrfSettings(Settings):
    """The dense CRF that sharpens a mask along the image's edges (method.md §7.7; Krähenbühl & Koltun 2011)."""

    gaussian_sigma: Annotated[
        float, Field(gt=0, description="Reach of the smoothness kernel: pixels in evaluate, µm in predict.")
    ] = 15.0
    gaussian_weight: Annotated[float, Field(ge=0, description="Weight of the smoothness kernel.")] = 30.0
    bilateral_sigma: Annotated[
        float, Field(gt=0, description="Reach of the appearance kernel: pixels in evaluate, µm in predict.")
    ] = 10.0
    colour_sigma: Annotated[float, Field(gt=0, description="Width of the appearance kernel in colour, 0..255.")] = 20.0
    bilateral_weight: Annotated[float, Field(ge=0, description="Weight of the appearance kernel.")] = 50.0
    iterations: Annotated[int, Field(ge=1, le=100, description="Mean-field iterations.")] = 5
    half_size: Annotated[
        bool, Field(description="Work on the image at half its size: several times as fast, nearly the same labels.")
    ] = False

    def in_pixels(self, mpp: float) -> CrfSettings:
        """These settings with their reaches, given in µm, in pixels of `mpp`."""
        reaches = {"gaussian_sigma": self.gaussian_sigma / mpp, "bilateral_sigma": self.bilateral_sigma / mpp}
        return self.model_copy(update=reaches)


Refiner = Literal["none", "lattice", "pydensecrf"]
Backend = Literal["auto", "torch", "onnx"]
PrecisionField = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(description="Of the encoder's arithmetic; auto: the graphics card's fastest, float32 elsewhere."),
]
BackendField = Annotated[
    Backend,
    Field(
        description="What computes the network: PyTorch, or ONNX Runtime (extra onnx; on a CPU, twice as fast with the"
        " embedded encoder, the same masks). auto: ONNX Runtime where it is installed and the device is the CPU."
    ),
]


class PredictSettings(Settings):
    """How a slide is read, cut, scored and put together."""

    mpp: Annotated[
        float, Field(ge=0, le=20, description="Resolution read, in µm per pixel; 0 takes the model's own.")
    ] = 0.0
    tile: Annotated[int, Field(ge=64, le=4096, description="Edge of a tile, in pixels at mpp.")] = 768
    overlap: Annotated[
        int, Field(ge=0, le=2048, description="Overlap of neighbouring tiles; its outer third is dropped (pixels).")
    ] = 192
    batch: Annotated[
        int, Field(ge=0, le=512, description="Tiles per forward pass; 0: one on a CPU, sixteen on a GPU.")
    ] = 0
    flips: Annotated[bool, Field(description="Average with the mirrored tile (twice the time).")] = False
    normalise: Annotated[
        Literal["training", "slide", "benchmark"],
        Field(
            description="What counts as 1 in the class maps: the training tiles' level, this slide's own, or every"
            " tile's minimum and maximum without a gate (as published; makes seams; for comparison only)."
        ),
    ] = "training"
    presence: Annotated[
        float, Field(ge=0, le=1, description="A class scored below this is absent there; 0 takes the model's own.")
    ] = 0.0
    background_power: Annotated[
        float, Field(gt=0, le=100, description="Exponent of the background score (1 - max)^power.")
    ] = 10.0
    tissue_only: Annotated[bool, Field(description="Leave bare glass unlabelled.")] = True
    refiner: Annotated[
        Refiner,
        Field(
            description="none, or a dense CRF along the image's edges (a slide takes about twice as long)."
            " pydensecrf: for parity, on the command line only."
        ),
    ] = "none"
    crf: CrfSettings = CrfSettings()
    block: Annotated[
        int,
        Field(ge=64, le=4096, description="Edge of the blocks in which results are written (a power of 2, pixels)."),
    ] = 1024
    backend: BackendField = "auto"
    precision: PrecisionField = "auto"
    threads: Annotated[
        int,
        Field(ge=0, le=256, description="CPU threads for the model, for two tiles at a time; 0 lets torch choose."),
    ] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"

    @model_validator(mode="after")
    def _overlap_below_tile(self) -> PredictSettings:
        if not self.overlap < self.tile:
            raise ValueError(f"overlap={self.overlap} must be below tile={self.tile}")
        if self.block.bit_count() > 1:
            raise ValueError(f"block={self.block} must be a power of 2")
        return self


Gate = Literal["predicted", "none", "truth"]


class EvaluateSettings(Settings):
    """How a model is measured on images with masks (method.md §7)."""

    gates: Annotated[
        tuple[Gate, ...],
        Field(min_length=1, description="Which classes may be painted: those predicted, all, or those in the truth."),
    ] = ("predicted", "none", "truth")
    refiners: Annotated[
        tuple[Refiner, ...], Field(min_length=1, description="Masks as they are (none), or after a dense CRF.")
    ] = ("none", "lattice")
    crf: CrfSettings = CrfSettings()
    background: Annotated[
        Literal["exclude", "count", "predict"],
        Field(
            description="Pixels outside all classes: left out, counted as errors when painted, or a label of their own"
            " that the model must predict."
        ),
    ] = "exclude"
    views: Annotated[
        Literal["one", "flips", "official"],
        Field(description="Averaged views: one, with its mirror image, or the published six."),
    ] = "one"
    normalise: Annotated[
        Literal["training", "image"],
        Field(description="Class maps made 0..1 by constants of the training tiles, or per image (as published)."),
    ] = "training"
    background_power: Annotated[
        float, Field(gt=0, le=100, description="Exponent of the background score (1 - max)^power.")
    ] = 10.0
    boundary_share: Annotated[
        float, Field(gt=0, le=0.2, description="Width of the band of the boundary IoU, as a share of the diagonal.")
    ] = 0.02
    bootstrap: Annotated[int, Field(ge=0, description="Resamplings of the sources for the 95 % intervals.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Seed of the resampling.")] = 0
    backend: BackendField = "auto"
    precision: PrecisionField = "auto"
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"


class CompareSettings(Settings):
    """How prototype banks are compared on the same places."""

    temperature: Annotated[
        float, Field(ge=0, description="τ of the softmax over places; 0 takes the models' own, if they agree.")
    ] = 0.0
    nearest: Annotated[int, Field(ge=0, le=100, description="Nearest patches shown per prototype.")] = 5
    nearest_places: Annotated[
        int,
        Field(ge=0, le=100, description="With training tiles: nearest places in the compared tiles, shown as well."),
    ] = 0
    nearest_per_source: Annotated[int, Field(ge=1, description="Most of them from one slide or patient.")] = 3
    training_tiles: Annotated[
        int,
        Field(ge=0, description="Most training tiles looked at for nearest patches and clusters, spread; 0: all."),
    ] = 300
    slide_tiles: Annotated[
        int, Field(ge=0, description="Most tiles of a slide that are compared, spread over its tissue; 0: all.")
    ] = 300
    stability_tiles: Annotated[
        int, Field(ge=0, description="Tiles, spread over the data, on which stability is measured; 0: not at all.")
    ] = 40
    bootstrap: Annotated[int, Field(ge=0, description="Resamplings of the sources for the 95 % intervals.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Seed of the resampling, the random banks and the clusters.")] = 0
    threads: Annotated[int, Field(ge=0, le=256, description="CPU threads of torch; 0 lets torch choose.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps.")] = "auto"
