"""The metrics of a comparison and what they mean."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["model", "random", "clustered"]


class Metric(NamedTuple):
    """A figure of a bank.

    Attributes:
        name: In tables for programs.
        label: In tables for people.
        meaning: One line.
        more: What a bank with a larger figure does, in a sentence "A … than B".
        less: What one with a smaller figure does.
        by_source: It has an interval, by resampling sources; else it is of the vectors, or of a ranking, alone.
    """

    name: str
    label: str
    meaning: str
    more: str = ""
    less: str = ""
    by_source: bool = True


METRICS = (
    Metric(
        "effective_number",
        "effective number",
        "different directions that the k vectors amount to, 1..k",
        by_source=False,
    ),
    Metric("mean_cosine", "mean cosine", "of a class's vectors to each other; 1: all alike", by_source=False),
    Metric("max_cosine", "largest cosine", "of the two most alike vectors of a class", by_source=False),
    Metric(
        "spatial_divergence",
        "spatial diversity",
        "mean JSD of where two prototypes of a class look, over ln 2; 0 same places, 1 disjoint places",
        "looks at places that differ more",
        "looks at places that differ less",
    ),
    Metric(
        "spatial_similarity",
        "mean exp(-J)",
        "the paper's similarity of where two prototypes look; 1 same places",
        "looks at places that are more alike",
        "looks at places that are less alike",
    ),
    Metric(
        "focus_overlap",
        "focus overlap",
        "IoU of the tenths of the class's places that two prototypes like best; chance: above",
        "has foci that overlap more",
        "has foci that overlap less",
    ),
    Metric(
        "position_share",
        "told by position",
        "share of the prototypes' differences that is the place in the tile, not the tissue",
        by_source=False,
    ),
    Metric(
        "coverage",
        "coverage",
        "share of the class's places where a prototype reaches what 5 % of the other places reach; chance 0.05",
        "covers a larger share of the tissues",
        "covers a smaller share of the tissues",
    ),
    Metric(
        "usage_entropy",
        "usage entropy",
        "how evenly the class's places are shared out among its prototypes; 0 one takes all, 1 evenly",
        "uses its prototypes more evenly",
        "uses its prototypes less evenly",
    ),
    Metric(
        "purity",
        "purity",
        "share of a prototype's nearest places (one per tile, at most 100) that are of its class",
        "has nearest places that are more often of the class",
        "has nearest places that are less often of the class",
    ),
    Metric(
        "lift",
        "lift",
        "purity over the class's share of all places",
        "has a larger lift",
        "has a smaller lift",
    ),
    Metric(
        "consistency",
        "consistency",
        "share of the prototypes whose nearest places are of one tissue, whichever, in 80 % or more",
        "has more prototypes that keep to one tissue",
        "has fewer prototypes that keep to one tissue",
    ),
    Metric(
        "stability_stain",
        "stability, stain",
        "correlation of the heatmaps before and after 10 % more haematoxylin and 10 % less eosin",
        "changes less with the stain",
        "changes more with the stain",
    ),
    Metric(
        "stability_noise",
        "stability, noise",
        "correlation of the heatmaps before and after Gaussian noise of 8 grey levels",
        "changes less with noise",
        "changes more with noise",
    ),
    Metric(
        "stability_rotation",
        "stability, rotation",
        "correlation of the heatmaps before and after a quarter turn, turned back",
        "changes less with rotation",
        "changes more with rotation",
    ),
    Metric(
        "source_spread",
        "slide spread",
        "slides or patients that a prototype's nearest places amount to",
        by_source=False,
    ),
    Metric(
        "faithfulness",
        "faithfulness",
        "IoU of the class that is lost when one of its prototypes is dropped, mean over prototypes",
        "loses more of its masks with each prototype",
        "loses less of its masks with each prototype",
    ),
    Metric("iou", "mIoU", "of the masks, classes gated by the model's own scores", "segments better", "segments worse"),
)
