"""A ViT as an encoder of four feature maps: tokens of four of its blocks, on a grid that tiles divide into."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from napari_lpd.core.errors import ModelError
from napari_lpd.models.backbones.library import timm

if TYPE_CHECKING:
    from collections.abc import Sequence

VITS = {"vision_transformer", "deit", "eva"}  # timm's modules of networks that take images of any size
MAPS = 4


def is_vit(network: str) -> bool:
    """Return whether timm's `network` is a ViT that can take images of any size."""
    return bool(timm.models.is_model_in_modules(network, VITS))


class TokenMaps(nn.Module):
    """Four feature maps of a ViT: the patch tokens after four blocks, normalised by its last norm.

    Class and register tokens are left out. A place of the maps covers `stride` pixels, the power of two nearest to the
    patch: so cells and tiles hold whole numbers of places whatever the patch. Images are continued at their far sides
    until patches cover all places; where patch and stride differ, tokens are interpolated at the places' centres, so
    that positions stay right; what lies beyond the image is cut off again.

    Args:
        vit: timm's network, made with ``dynamic_img_size=True``.
        blocks: The four blocks, 0-based; empty: evenly spaced, ending with the last.

    Attributes:
        blocks: The four blocks.
        width: Channels of every map.
        patch: Edge of a patch, in pixels.
        stride: Pixels per place.

    Raises:
        ModelError: blocks that the network does not have.
    """

    def __init__(self, vit: Any, blocks: Sequence[int] = ()) -> None:
        super().__init__()
        depth = len(vit.blocks)
        if depth < MAPS:
            raise ModelError(f"a ViT of {depth} blocks gives no {MAPS} maps; choose a deeper encoder")
        self.blocks = tuple(blocks) or tuple(depth * (i + 1) // MAPS - 1 for i in range(MAPS))
        if list(self.blocks) != sorted(set(self.blocks)) or not 0 <= self.blocks[0] <= self.blocks[-1] < depth:
            raise ModelError(
                f"encoder_blocks={list(self.blocks)}: wanted {MAPS} different blocks of 0 to {depth - 1}, in order"
            )
        vit.prune_intermediate_layers(list(self.blocks), prune_norm=False, prune_head=True)
        self.vit = vit
        self.width = int(vit.embed_dim)
        self.patch = int(vit.patch_embed.patch_size[0])
        self.stride = 2 ** round(math.log2(self.patch))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to four maps (B, width, ⌈H / stride⌉, ⌈W / stride⌉)."""
        height, width = int(images.shape[2]), int(images.shape[3])
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        bottom, right = self._covering(rows) - height, self._covering(columns) - width
        if bottom or right:
            images = pad(images, (0, right, 0, bottom), mode="replicate")
        maps: list[Tensor] = self.vit.forward_intermediates(
            images, indices=list(self.blocks), norm=True, stop_early=True, intermediates_only=True
        )
        if self.patch != self.stride:
            ratio = self.patch / self.stride
            maps = [interpolate(tokens, scale_factor=ratio, mode="bilinear", align_corners=False) for tokens in maps]
        return [tokens[:, :, :rows, :columns] for tokens in maps]

    def _covering(self, places: int) -> int:
        """Return the least multiple of the patch that covers `places` places, in pixels."""
        return -(-places * self.stride // self.patch) * self.patch
