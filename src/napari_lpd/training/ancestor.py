"""Go on from a model: a network starts with another's weights, its classes taken over by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from napari_lpd.core.errors import ModelError
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.network import encoder_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import ModelSettings
    from napari_lpd.models.encoder import Encoder
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


def starting_encoder(settings: ModelSettings, ancestor: Ancestor | None) -> Encoder:
    """Build the encoder with which a training starts: with its named weights, or as the ancestor's is built."""
    if ancestor is None:
        return encoder_of(settings, settings.encoder_weights)
    return encoder_of(settings, "random", read_card(ancestor.path).encoder)


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
    inherit(network, [tissue.name for tissue in classes], parent.network, known)
    return (*parent.card.ancestors, f"{parent.name} {parent.hash[:SHOWN]}")


@torch.no_grad()
def inherit(network: LPD, names: Sequence[str], parent: nn.Module, known: Sequence[str]) -> None:
    """Give a network, with classes of these names, the weights of a parent that has those of the names `known`.

    What belongs to a class is that of the class of the same name, or stays as it is where there is none.
    """
    state, given = network.state_dict(), parent.state_dict()
    for name, tensor in state.items():
        if name.startswith(OF_CLASSES):
            old, new = given[name].unflatten(0, (len(known), -1)), tensor.unflatten(0, (len(names), -1))
            for c, own in enumerate(names):
                if own in known:
                    new[c] = old[known.index(own)]
        else:
            tensor.copy_(given[name])
    network.load_state_dict(state)
