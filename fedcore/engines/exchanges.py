"""What tensor-parallel ranks exchange in a step: read off one recorded forward pass, counted for any shares and batch.

Which layer is computed how often, on how many places, is known to encoder and objective only (crops of several sizes,
several convolutions that write to one stream), so one pass over two samples is recorded rather than declared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedcore.augment import Augmentation
from fedcore.blocks import Block, Weights
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples


@dataclass(frozen=True)
class Exchange:
    """One exchange of activations in a forward pass.

    Attributes:
        layer: whose neurons are spread over the ranks.
        values: numbers per sample: per neuron of the layer where they are gathered, altogether where they are summed.
        summed: partial sums are added over the ranks (row-parallel), rather than outputs gathered (column-parallel).
        learns: whether a backward pass follows; none does through a momentum target.
    """

    layer: str
    values: float
    summed: bool
    learns: bool


@dataclass(frozen=True)
class Traffic:
    """What one rank exchanges in one step.

    Attributes:
        sent_bytes: of payload.
        received_bytes: of payload.
        exchanges: times that it waits for the others.
    """

    sent_bytes: int
    received_bytes: int
    exchanges: int


@dataclass(frozen=True)
class Plan:
    """All exchanges of one step.

    Attributes:
        exchanges: of activations, in the order of the forward pass.
        read: parameters that are read as they are (biases, norms, embeddings), gathered in one message.
        target_read: the same of the momentum target.
        entries: of every such parameter, per row.
        layer_of: the layer that owns its rows.
    """

    exchanges: tuple[Exchange, ...]
    read: tuple[str, ...]
    target_read: tuple[str, ...]
    entries: dict[str, int]
    layer_of: dict[str, str]

    def traffic(self, blocks: Sequence[Block], batch: int) -> list[Traffic]:
        """By rank. With E_r numbers of its own among E, p ranks:

        a gather sends (p - 1) E_r and receives E - E_r; its backward reduce-scatter is the other way round. A sum of M
        numbers is a reduce-scatter and a gather of slices of M / p, forward and backward. Parameters that are read as they
        are count once per step, whatever the batch.

        Args:
            blocks: by rank, its neurons.
            batch: samples per step.
        """
        p = len(blocks)
        own = [{name: len(index) for name, index in block.trained.items()} for block in blocks]
        # (numbers of every rank, reduce-scatters of them, gathers of them)
        messages: list[tuple[list[int], int, int]] = []
        for e in self.exchanges:
            if e.summed:
                total = round(e.values * batch)
                slices = [total // p + (rank < total % p) for rank in range(p)]
                messages.append((slices, 1 + e.learns, 1 + e.learns))
            else:
                messages.append(([round(counts[e.layer] * e.values * batch) for counts in own], int(e.learns), 1))
        for names, learns in ((self.read, 1), (self.target_read, 0)):
            if names:
                messages.append(([sum(c[self.layer_of[n]] * self.entries[n] for n in names) for c in own], learns, 1))
        sent, received, times = [0] * p, [0] * p, 0
        for numbers, scatters, gathers in messages:
            times += scatters + gathers
            for rank in range(p):
                copies, others = (p - 1) * numbers[rank], sum(numbers) - numbers[rank]
                sent[rank] += 4 * (gathers * copies + scatters * others)
                received[rank] += 4 * (gathers * others + scatters * copies)
        return [Traffic(s, r, times if p > 1 else 0) for s, r in zip(sent, received, strict=True)]


@dataclass
class _Recorder(Weights):
    """Whole weights that note what is computed with them."""

    layer_of: dict[str, str] = field(kw_only=True)
    neurons: dict[str, int] = field(kw_only=True)
    learns: bool = field(kw_only=True)
    exchanges: list[Exchange] = field(kw_only=True)
    names: dict[str, None] = field(default_factory=dict, kw_only=True)

    def vector(self, name: str) -> Tensor:
        self.names[name] = None
        return self.frozen[name]

    def rows(self, names: Sequence[str], op: Callable[..., Tensor], dim: int = 1) -> Tensor:
        out, layer = super().rows(names, op, dim), self.layer_of[names[0]]
        self.exchanges.append(Exchange(layer, out.numel() / (2 * self.neurons[layer]), False, self.learns))
        return out

    def spread(self, x: Tensor, name: str) -> Tensor:
        out = super().spread(x, name)
        self.exchanges.append(Exchange(self.layer_of[name], out.numel() / 2, True, self.learns))
        return out


def _two_samples(model: Model) -> Samples:
    if model.encoder.reads == "tokens":
        window: int = model.encoder.window  # type: ignore[attr-defined]
        return Samples(torch.zeros(2, window + 1, dtype=torch.int64))
    images = torch.zeros(2, *model.encoder.image_shape, dtype=torch.uint8)
    return Samples(images, torch.zeros(2, dtype=torch.int64))


def record(model: Model, state: State | None = None) -> Plan:
    """The exchanges of one step of a model.

    Args:
        model: encoder and objective.
        state: any whole weights of it; None draws some.
    """
    generator = torch.Generator().manual_seed(0)
    state = model.init_state(generator) if state is None else state
    samples = _two_samples(model)
    exchanges: list[Exchange] = []
    layer_of = {p.name: p.rows for p in model.neuron_map.parameters}
    neurons = {layer.name: layer.neurons for layer in model.neuron_map.layers}

    def recorder(weights: State, learns: bool) -> _Recorder:
        return _Recorder({}, weights, layer_of=layer_of, neurons=neurons, learns=learns, exchanges=exchanges)

    online = recorder(state, True)
    online.statistics = {name: state[name].clone() for name in model.objective.statistics}
    target = model.target_of(state)
    aim = None if target is None else recorder(target, False)
    with torch.no_grad():
        batch = model.objective.draw(samples, torch.arange(2), Augmentation(), generator)
        model.objective.loss(model.encoder.features, online, aim, batch)
    entries = {p.name: state[p.name][0].numel() for p in model.neuron_map.parameters}
    return Plan(tuple(exchanges), tuple(online.names), tuple(aim.names) if aim else (), entries, layer_of)
