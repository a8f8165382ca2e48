"""The blocks in which a result is written: which maps each depends on, and how it is put together from them.

A block depends on its tissue and what lies within reach of it, not on other blocks or on the scope.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from napari_lpd.core.geometry import common, divided, is_empty, multiplied, within
from napari_lpd.core.labelling.rule import LEAST, UNREADABLE, UNSURE
from napari_lpd.models.cam import class_presence, evidence, label_scores, probabilities, unsureness, upsampled
from napari_lpd.models.network import STAGES_USED, output_channels, used_stages
from napari_lpd.prediction.relabel import labels_in_block
from napari_lpd.results.prediction import BlockResult

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.core.labelling.rule import Evidence
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.slide import Slide

CRF_REACH = 3  # standard deviations of its kernels


class BlockAssembler:
    """The blocks of one prediction; everything but `assemble` is in map pixels, (y0, x0, y1, x1)."""

    def __init__(self, slide: Slide, model: LoadedModel, prediction: Prediction) -> None:
        self.slide, self.model, self.prediction, self.card = slide, model, prediction, prediction.card
        self.window = model.card.settings.tile // self.card.stride | 1
        self.crf = self.card.settings.crf.in_pixels(self.card.mpp)
        reach = 2 * math.ceil(CRF_REACH * max(self.crf.gaussian_sigma, self.crf.bilateral_sigma) / 2)
        self.crf_halo = 0 if self.card.settings.refiner == "none" else reach
        self.threads = torch.get_num_threads()  # of the CRF: torch itself has one alone where blocks are written
        self._active: dict[Block, Box] = {}
        limits = prediction.scope_box()
        for block in sorted(prediction.missing_blocks(prediction.finished_blocks())):
            if active := self._with_tissue(block, limits):
                self._active[block] = active

    def pending(self) -> list[Block]:
        """List the blocks with something to label that are not done, in storage order."""
        return list(self._active)

    def input_box(self, block: Block) -> Box:
        """Return the map pixels on which a block depends: the gate's window, the CRF's reach, one for upsampling."""
        return self._around(block, self.window // 2 + self._seen_around)

    @property
    def _seen_around(self) -> int:
        """Map pixels around what is labelled of which scores are needed."""
        return -(-self.crf_halo // self.card.stride) + 1

    def _around(self, block: Block, halo: int) -> Box:
        """Return what is active of a block, and a halo within the slide."""
        h, w = (-(-n // self.card.stride) for n in self.card.shape)
        y0, x0, y1, x1 = self._active[block]
        return max(y0 - halo, 0), max(x0 - halo, 0), min(y1 + halo, h), min(x1 + halo, w)

    def _with_tissue(self, block: Block, limits: Box) -> Box | None:
        """Find the map pixels of a block around tissue inside of limits, and one more, from which labels can be made.

        The CRF sees all of a block's tissue as one.
        """
        prediction, stride, reach = self.prediction, self.card.stride, self.prediction.reach(block)
        found = prediction.tissue_box(common(reach, limits))
        if found and self.crf_halo:
            found = prediction.tissue_box(reach)
        if found is None:
            return None
        y0, x0, y1, x1 = divided(found, stride)
        return common((y0 - 1, x0 - 1, y1 + 1, x1 + 1), divided(prediction.block_box(block), stride))

    def assemble(self, block: Block, maps: Tensor, known: Tensor, damaged: frozenset[Box]) -> BlockResult:
        """Apply the CAM rules.

        Args:
            block: Which one.
            maps: (S·C·k, h, w) blended scaled cosines of the stages that are needed, of the box that `needed` names.
            known: (h, w) bool, where there are any.
            damaged: Boxes in pixels that could not be read.
        """
        card, network, need = self.card, self.model.network, self.input_box(block)
        origin, shape = need[:2], (need[2] - need[0], need[3] - need[1])
        tissue = torch.from_numpy(self.prediction.tissue.at(origin, shape, card.mpp * card.stride))
        outputs, counted = maps.split(output_channels(network)), tissue.to(maps.device) & known
        gating = [part[0] for part in network.gating([part[None] for part in outputs])]
        presence = class_presence(network, gating, self.window, counted)
        stages = dict(zip(used_stages(network), outputs, strict=False))  # without what only gates
        seen, active = self._around(block, self._seen_around), self._active[block]
        stages = {i: stage[within(need, seen)] for i, stage in stages.items()}
        found = evidence(stages, presence[within(need, seen)], self.prediction.map_scale, self.model, card.settings)
        rule = card.rule._replace(favour=(1.0,) * len(card.classes))  # what is stored is what the model says
        scores = label_scores(found, rule)
        labels = self._labels(block, found, damaged)
        inside, box = within(seen, active), divided(self.prediction.block_box(block), card.stride)
        cosines = self._cosines({i: stage[inside] for i, stage in stages.items()}).unflatten(0, (-1, network.k))
        unsure = unsureness(network, scores[inside], outputs[-1][within(need, active)].cpu(), card.temperature)
        cells = self._labelled(active)
        near = binary_dilation(self._labelled(seen), np.ones((3, 3)))[inside]

        def whole(values: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
            """Put bytes (…, h, w) into the block; 0 where nothing was predicted."""
            result = np.zeros((*values.shape[:-2], box[2] - box[0], box[3] - box[1]), np.uint8)
            result[within(box, active)] = values * where
            return result

        return BlockResult(
            labels,
            whole(found.scores[inside], near),
            whole(found.presence[inside], near),
            whole(_bytes((cosines + 1) / 2), cells),
            whole(_bytes(unsure), cells),
        )

    def _cosines(self, stages: dict[int, Tensor]) -> Tensor:
        """Fuse the prototypes' cosines (C·k, h, w) as the class maps are fused."""
        scales = self.model.network.scales.tolist()
        fused = self.model.network.settings.stage_fusion
        total = [weight / scales[STAGES_USED[i]] * stages[i] for i, weight in enumerate(fused) if weight]
        return torch.stack(total).sum(0) / sum(fused)

    def _labelled(self, box: Box) -> NDArray[np.bool_]:
        """Mark the map pixels (h, w) of a box of which any pixel is to be labelled."""
        stride, (h, w) = self.card.stride, self.card.shape
        y0, x0, y1, x1 = multiplied(box, stride)
        wanted = self.prediction.to_label((y0, x0), (min(y1, h) - y0, min(x1, w) - x0))
        whole = np.pad(wanted, ((0, y1 - y0 - len(wanted)), (0, x1 - x0 - wanted.shape[1])))
        return np.asarray(whole.reshape((y1 - y0) // stride, stride, -1, stride).any((1, 3)))

    def _labels(self, block: Block, found: Evidence, damaged: frozenset[Box]) -> NDArray[np.uint8]:
        """Labels of a block's pixels (h, w), from the evidence of what is seen."""
        seen, stride, box = self._around(block, self._seen_around), self.card.stride, self.prediction.block_box(block)
        if self.crf_halo:
            fine, of = self._refined(block, found), multiplied(self._active[block], stride)
        else:
            fine, of = self.card.rule.labels(found, stride), multiplied(seen, stride)
        labels = labels_in_block(self.prediction, block, fine, of)
        for place in (common(box, place) for place in damaged):
            if not is_empty(place):
                part = labels[within(box, place)]
                part[part > 0] = UNREADABLE
        return labels

    def _refined(self, block: Block, found: Evidence) -> NDArray[np.uint8]:
        """Labels after the dense CRF of what is active; a class that the gate shuts out stays out."""
        from napari_lpd.models.crf.dense_crf import dense_crf

        stride, halo, (h, w), rule = self.card.stride, self.crf_halo, self.card.shape, self.card.rule
        active = multiplied(self._active[block], stride)
        y0, x0, y1, x1 = common((active[0] - halo, active[1] - halo, active[2] + halo, active[3] + halo), (0, 0, h, w))
        scored = multiplied(self._around(block, self._seen_around), stride)
        scores = label_scores(found, rule) * torch.tensor([1.0, *rule.favour])[:, None, None]
        fine = upsampled(scores, stride)[within(scored, (y0, x0, y1, x1))]
        image, _ = self.slide.read_tolerant((y0, x0), (y1 - y0, x1 - x0), self.card.mpp)
        shares = probabilities(fine).numpy()
        refiner = self.card.settings.refiner
        assert refiner != "none"
        refined = dense_crf(image, shares, self.crf, refiner, str(self.model.device), self.threads)
        sure = np.where(shares[1:] > 0, refined[1:], 0)
        labels = np.where(sure.max(0) >= rule.sure, sure.argmax(0) + 1, UNSURE)
        return labels.astype(np.uint8)[within((y0, x0, y1, x1), active)]


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    """Convert 0..1 to 1..255, for storage."""
    return np.asarray((LEAST + (values.clamp(0, 1) * (255 - LEAST)).round()).to(torch.uint8).cpu().numpy())
