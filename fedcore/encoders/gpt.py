"""A small causal transformer on tokens (Radford et al. 2019): features of every position."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.transformer import Transformer
from fedcore.neurons import Parameter


class GPT(Transformer):
    """Token and position embeddings - causal pre-norm blocks - norm without weights, (N, T) int64 -> (N, T, dim).

    What stands at a position depends on its token and those before it only.

    Args:
        text_shape: (vocabulary, window): number of different tokens, and tokens per sample, T at most.
        dim: width of the stream, and number of features per position.
        depth: blocks.
        heads: attention heads per block.
        head_dim: width of a head; None is dim / heads.
        units: hidden units of every block's MLP; None is 4 x dim.

    Attributes:
        vocabulary: number of different tokens.
        window: tokens per sample.

    Raises:
        ValueError: `dim` is not made of whole heads, or a number is below 1.
    """

    reads = "tokens"
    causal = True

    def __init__(
        self,
        text_shape: tuple[int, int],
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        head_dim: int | None = None,
        units: int | None = None,
    ) -> None:
        self.vocabulary, self.window = text_shape
        if self.vocabulary < 1 or self.window < 1:
            raise ValueError(f"text_shape is {text_shape}, expected a vocabulary and a window of at least 1")
        embedding = [
            # Looked up, not multiplied: no FLOPs.
            Parameter("stream1.tokens", (dim, self.vocabulary), "stream1"),
            Parameter("stream1.positions", (dim, self.window), "stream1"),
        ]
        self._declare(embedding, self.window, dim, depth, heads, head_dim, 4 * dim if units is None else units)

    def takes(self, height: int, width: int) -> bool:
        """See `Encoder.takes`: no images at all."""
        return False

    def embed(self, weights: Weights, x: Tensor) -> Tensor:
        """See `Transformer.embed`; `x` is (N, T) int64 with T up to the window.

        Raises:
            ValueError: more tokens than the window holds.
        """
        if x.shape[1] > self.window:
            raise ValueError(f"got {x.shape[1]} tokens per sample, expected at most the window of {self.window}")
        positions = weights.vector("stream1.positions")[:, : x.shape[1]]
        return F.embedding(x, weights.vector("stream1.tokens").T) + positions.T

    def pool(self, x: Tensor) -> Tensor:
        """Features of every position, (N, T, dim), normalised; see `Encoder.pool`."""
        return F.layer_norm(x, x.shape[-1:])
