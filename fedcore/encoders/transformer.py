"""What a ViT and a GPT share: pre-norm blocks of attention heads and MLP units on a residual stream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter, State

EMBEDDING_DEVIATION = 0.02
"""Standard deviation of initial position and token embeddings (Radford et al. 2019)."""


class Transformer(Encoder):
    """x <- x + heads(norm(x)), x <- x + units(norm(x)) per block (pre-norm: Xiong et al. 2020).

    Two kinds of neurons, both owning the weights that write their output back to the stream: attention heads (query,
    key, value and output projection) and MLP units (GELU). The stream itself is a layer of every block that is always
    visible, so that it is never thinned; its `dim` neurons own the norms, the output biases and, in the first block, the
    embedding. A thinned context is rescaled where heads and units write to the stream.

    Every stage is one block. Between stages goes the stream, (N, tokens, dim).
    """

    causal: ClassVar[bool]
    """Whether a token sees only itself and those before it."""

    def _declare(
        self, embedding: Sequence[Parameter], tokens: int, dim: int, depth: int, heads: int, head_dim: int | None, units: int
    ) -> None:
        """Set up neuron map, stages and initial spread.

        Args:
            embedding: parameters of `stream1` that make its first value.
            tokens: per sample.
            dim: width of the stream.
            depth: blocks.
            heads: per block.
            head_dim: width of a query, key and value; None is dim / heads.
            units: hidden units of every block's MLP.

        Raises:
            ValueError: a number below 1, or `dim` is not made of whole heads where `head_dim` is None.
        """
        for name, value in (("dim", dim), ("depth", depth), ("heads", heads), ("head_dim", head_dim), ("units", units)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if head_dim is None:
            head_dim, rest = divmod(dim, heads)
            if rest:
                raise ValueError(f"dim is {dim}, expected a multiple of the {heads} heads, or a head_dim")
        layers: list[Layer] = []
        parameters: list[Parameter] = list(embedding)
        self._deviation: dict[str, float] = {}
        for i in range(1, depth + 1):
            s, h, u = f"stream{i}", f"heads{i}", f"units{i}"
            # Kept for the backward pass, per token: both norms' inputs and outputs on the stream (and the last norm's
            # input); query, key, value, the heads' mixture and one number per head; a unit before and after its GELU.
            layers += [
                Layer(s, dim, positions=tokens, stored=4.0 if i < depth else 5.0, always_visible=True, residual=True),
                # Scores and their mixture: tokens x tokens products of head_dim numbers, twice.
                Layer(h, heads, positions=tokens, stored=4.0 * head_dim + 1.0, macs=2 * tokens * tokens * head_dim),
                Layer(u, units, positions=tokens, stored=2.0),
            ]
            parameters += [
                Parameter(f"{s}.norm1.gain", (dim,), s),
                Parameter(f"{s}.norm1.bias", (dim,), s),
                Parameter(f"{h}.qkv", (heads, 3 * head_dim, dim), h, macs=tokens),
                Parameter(f"{h}.out", (heads, head_dim, dim), h, macs=tokens),
                Parameter(f"{s}.heads.bias", (dim,), s),
                Parameter(f"{s}.norm2.gain", (dim,), s),
                Parameter(f"{s}.norm2.bias", (dim,), s),
                Parameter(f"{u}.weight", (units, dim), u, macs=tokens),
                Parameter(f"{u}.bias", (units,), u),
                Parameter(f"{u}.out", (units, dim), u, macs=tokens),
                Parameter(f"{s}.units.bias", (dim,), s),
            ]
            # Every one of 2 x depth branches adds to the stream: smaller each, so that their sum is not (Radford et al.).
            self._deviation |= {
                f"{h}.qkv": dim**-0.5,
                f"{h}.out": (2 * depth * heads * head_dim) ** -0.5,
                f"{u}.weight": dim**-0.5,
                f"{u}.out": (2 * depth * units) ** -0.5,
            }
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(p.name for p in parameters if p.name.endswith(".gain"))
        self.stages = tuple((f"heads{i}", f"units{i}", f"stream{i}") for i in range(1, depth + 1))

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh weights, every draw from the generator: normal with deviation 1 / sqrt(fan-in), smaller by
        sqrt(2 x depth) for what writes to the stream; `EMBEDDING_DEVIATION` for embeddings, 1 for gains, 0 for biases."""
        state: State = {}
        for p in self.neuron_map.parameters:
            if p.name in self.norm_gains:
                state[p.name] = torch.ones(p.shape)
            elif len(p.shape) == 1:
                state[p.name] = torch.zeros(p.shape)
            else:
                deviation = self._deviation.get(p.name, EMBEDDING_DEVIATION)
                state[p.name] = torch.randn(p.shape, generator=generator) * deviation
        return state

    @abstractmethod
    def embed(self, weights: Weights, x: Tensor) -> Tensor:
        """The stream's first value, (N, tokens, dim)."""

    def stage(self, index: int, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.stage`."""
        if index == 0:
            x = self.embed(weights, x)
        heads, units, stream = self.stages[index]
        mixed = self._attend(weights.grouped_linear(self._norm(weights, f"{stream}.norm1", x), f"{heads}.qkv"))
        mixed = weights.rescale(mixed, heads, dim=-2)
        x = x + weights.spread(mixed, f"{heads}.out") + weights.vector(f"{stream}.heads.bias")
        hidden = weights.linear(self._norm(weights, f"{stream}.norm2", x), f"{units}.weight")
        hidden = weights.rescale(F.gelu(hidden + weights.vector(f"{units}.bias")), units, dim=-1)
        return x + weights.spread(hidden, f"{units}.out") + weights.vector(f"{stream}.units.bias")

    def _attend(self, qkv: Tensor) -> Tensor:
        """Scaled dot-product attention, (N, tokens, heads, 3 head_dim) -> (N, tokens, heads, head_dim)."""
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2)

    @staticmethod
    def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights.vector(f"{name}.gain"), weights.vector(f"{name}.bias"))
