"""Go on from a model: a network starts with another's weights, its classes taken over by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from napari_lpd.core.errors import ModelError
from napari_lpd.models.checkpoint import load_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.models.network import LPD

OF_CLASSES = ("prototypes", "classifiers.", "joint.presence.2.")  # tensors with rows per class, in their order
FREE = {"encoder_weights", "merge_predict", "stage_fusion"}  # settings in which the two may differ
SHOWN = 16  # digits of a model's hash


class Ancestor(NamedTuple):
    """The model from which a training goes on.

    Attributes:
        path: Its file.
        renamed: New names of its classes, by their old ones.
    """

    path: Path
    renamed: Mapping[str, str] = {}


def take_over(network: LPD, classes: Sequence[TissueClass], ancestor: Ancestor) -> tuple[str, ...]:
    """Give a network the ancestor's weights; return the ancestors' names, for the card, oldest first.

    What belongs to a class is taken from the class of the same name, or keeps its fresh start where there is none.

    Raises:
        ModelError: the file is no model, its network is of another kind, or it has no class of a renamed name.
    """
    parent = load_model(ancestor.path, "cpu")
    theirs, ours = parent.network.settings, network.settings
    for name in set(type(ours).model_fields) - FREE:
        if getattr(theirs, name) != getattr(ours, name):
            raise ModelError(
                f"{ancestor.path}: cannot go on from it with model.{name}={getattr(ours, name)}: it has"
                f" {getattr(theirs, name)}; leave the setting as it was, or train without --init"
            )
    names = [tissue.name for tissue in parent.card.classes]
    if unknown := set(ancestor.renamed) - set(names):
        raise ModelError(f"{ancestor.path}: has no class {sorted(unknown)[0]!r} to rename; it has {', '.join(names)}")
    known = [ancestor.renamed.get(name, name) for name in names]
    state, given = network.state_dict(), parent.network.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if name.startswith(OF_CLASSES):
                old, new = given[name].unflatten(0, (len(known), -1)), tensor.unflatten(0, (len(classes), -1))
                for c, tissue in enumerate(classes):
                    if tissue.name in known:
                        new[c] = old[known.index(tissue.name)]
            else:
                tensor.copy_(given[name])
    network.load_state_dict(state)
    return (*parent.card.ancestors, f"{parent.name} {parent.hash[:SHOWN]}")
