"""A small vision transformer (Dosovitskiy et al. 2021) whose features are the mean over its tokens."""

from __future__ import annotations

from math import prod

from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.transformer import Transformer
from fedcore.neurons import Parameter


class ViT(Transformer):
    """Patches - learned positions - pre-norm blocks - norm without weights - mean over tokens.

    No class token: with the mean every token has a part in the features, and there is one parameter less to spread.
    Images of another size than declared are taken too (crops of DINO): positions are interpolated, as by Caron et al. 2021.

    Args:
        image_shape: (C, H, W) of the images.
        patch: side of a patch.
        dim: width of the stream, and number of features.
        depth: blocks.
        heads: attention heads per block.
        head_dim: width of a head; None is dim / heads.
        units: hidden units of every block's MLP; None is 2 x dim.

    Raises:
        ValueError: the image is not made of whole patches, `dim` not of whole heads, or a number is below 1.
    """

    causal = False
    input_stored = 1.0

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        units: int | None = None,
    ) -> None:
        channels, height, width = image_shape
        self.image_shape, self.patch = image_shape, patch
        if patch < 1 or not self.takes(height, width):
            raise ValueError(f"images of {height}x{width} are not made of whole patches of side {patch}")
        self._grid = (height // patch, width // patch)
        inputs, tokens = channels * patch * patch, prod(self._grid)
        embedding = [
            Parameter("stream1.patches", (dim, inputs), "stream1", macs=tokens, reads_data=True),
            Parameter("stream1.positions", (dim, tokens), "stream1"),
        ]
        self._declare(embedding, tokens, dim, depth, heads, head_dim, 2 * dim if units is None else units)
        self._deviation["stream1.patches"] = inputs**-0.5

    def takes(self, height: int, width: int) -> bool:
        """See `Encoder.takes`: any that is made of whole patches."""
        return min(height, width) >= self.patch and height % self.patch == 0 and width % self.patch == 0

    def embed(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Transformer.embed`; `x` is (N, C, H, W)."""
        n, channels, height, width = x.shape
        p, grid = self.patch, (height // self.patch, width // self.patch)
        patches = x.view(n, channels, grid[0], p, grid[1], p).permute(0, 2, 4, 1, 3, 5).reshape(n, prod(grid), -1)
        positions = weights.vector("stream1.positions")
        if grid != self._grid:
            on_grid = positions.unflatten(1, self._grid)[None]
            positions = F.interpolate(on_grid, grid, mode="bilinear", align_corners=False)[0].flatten(1)
        return weights.linear(patches, "stream1.patches") + positions.T

    def pool(self, x: Tensor) -> Tensor:
        """See `Encoder.pool`: the mean over tokens, each normalised."""
        return F.layer_norm(x, x.shape[-1:]).mean(dim=1)
