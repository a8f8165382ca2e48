"""The blocks in which a result is written: which maps each depends on, and how it is put together from them.

A block depends on its tissue and what lies within reach of it, not on other blocks or on the scope.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_lpd.core.geometry import common, divided, is_empty, multiplied, within
from napari_lpd.models.cam import class_presence, label_scores, probabilities, unsureness, upsampled, upsampled_argmax
from napari_lpd.models.network import STAGES_USED, output_channels, used_stages
from napari_lpd.results.card import UNREADABLE
from napari_lpd.results.prediction import BlockResult

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_lpd.core.geometry import Block, Box
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
        """Find the map pixels around a block's tissue inside of limits; the CRF sees all of its tissue as one."""
        found = self.prediction.tissue_box(common(self.prediction.block_box(block), limits))
        if found and self.crf_halo:
            found = self.prediction.tissue_box(self.prediction.block_box(block))
        return found and divided(found, self.card.stride)

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
        scores = label_scores(
            stages, presence[within(need, seen)], self.prediction.map_scale, self.model, card.settings
        )
        labels, cells = self._labels(block, scores, damaged)
        inside, box = within(seen, active), divided(self.prediction.block_box(block), card.stride)
        cosines = self._cosines({i: stage[inside] for i, stage in stages.items()}).unflatten(0, (-1, network.k))

        unsure = unsureness(network, scores[inside], outputs[-1][within(need, active)], card.temperature)

        def whole(values: Tensor, lowest: int) -> NDArray[np.uint8]:
            """Scale 0..1 to `lowest`..255 in the block; 0 where nothing was predicted."""
            result = np.zeros((*values.shape[:-2], box[2] - box[0], box[3] - box[1]), np.uint8)
            levels = (lowest + (values.clamp(0, 1) * (255 - lowest)).round()).to(torch.uint8).cpu().numpy()
            result[within(box, active)] = levels * cells
            return result

        return BlockResult(
            labels,
            whole(scores[1:][inside], 0),
            whole((cosines + 1) / 2, 1),
            whole(unsure, 1),
        )

    def _cosines(self, stages: dict[int, Tensor]) -> Tensor:
        """Fuse the prototypes' cosines (C·k, h, w) as the class maps are fused."""
        scales = self.model.network.scales.tolist()
        fused = self.model.network.settings.stage_fusion
        total = [weight / scales[STAGES_USED[i]] * stages[i] for i, weight in enumerate(fused) if weight]
        return torch.stack(total).sum(0) / sum(fused)

    def _labels(
        self, block: Block, scores: Tensor, damaged: frozenset[Box]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Labels of a block's pixels (h, w), and which of the active map pixels were predicted (bool)."""
        stride, box, active = self.card.stride, self.prediction.block_box(block), self._active[block]
        if self.crf_halo:
            winner = self._refined(block, scores)
        else:
            seen = self._around(block, self._seen_around)
            inside = within(multiplied(seen, stride), multiplied(active, stride))
            winner = upsampled_argmax(scores, stride)[inside].cpu().numpy()
        y0, x0, y1, x1 = multiplied(active, stride)
        part = common((y0, x0, y1, x1), box)  # the last map pixel of a slide may be cut
        wanted = self.prediction.to_label(part[:2], (part[2] - y0, part[3] - x0))
        labels = np.zeros((box[2] - box[0], box[3] - box[1]), np.uint8)
        labels[within(box, part)] = winner[: part[2] - y0, : part[3] - x0] * wanted
        for place in (common(part, place) for place in damaged):
            if not is_empty(place):
                labels[within(box, place)][wanted[within(part, place)]] = UNREADABLE
        whole = np.pad(wanted, ((0, y1 - part[2]), (0, x1 - part[3])))
        return labels, np.asarray(whole.reshape((y1 - y0) // stride, stride, -1, stride).any((1, 3)))

    def _refined(self, block: Block, scores: Tensor) -> NDArray[np.uint8]:
        """Winner after the dense CRF of what is active; a class that the gate shuts out stays out."""
        from napari_lpd.models.crf.dense_crf import dense_crf

        stride, halo, (h, w) = self.card.stride, self.crf_halo, self.card.shape
        active = multiplied(self._active[block], stride)
        y0, x0, y1, x1 = common((active[0] - halo, active[1] - halo, active[2] + halo, active[3] + halo), (0, 0, h, w))
        scored = multiplied(self._around(block, self._seen_around), stride)
        fine = upsampled(scores, stride)[within(scored, (y0, x0, y1, x1))]
        image, _ = self.slide.read_tolerant((y0, x0), (y1 - y0, x1 - x0), self.card.mpp)
        shares = probabilities(fine).cpu().numpy()
        refiner = self.card.settings.refiner
        assert refiner != "none"
        refined = dense_crf(image, shares, self.crf, refiner, str(self.model.device), self.threads)
        winner = np.where(shares > 0, refined, -1).argmax(0).astype(np.uint8)
        return winner[within((y0, x0, y1, x1), active)]
