"""DINO (Caron et al. 2021): the student matches the centred, sharpened output of a momentum teacher on other views."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedcore.augment import Augmentation, random_view
from fedcore.blocks import Weights, whole_weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.objectives.base import Features, Objective
from fedcore.objectives.momentum import check_momentum
from fedcore.samples import Batch, Samples
from scenarios.errors import InputError

CENTRE = "dino.centre"
BATCH_MEAN = "dino.batch_mean"
GLOBAL_VIEWS = 2


def cross_view_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of -sum_k p_k log q_k over all pairs of a teacher view and another student view (DINO, equations 2 and 3).

    Args:
        student: (V, N, K) log q; the first views are the teacher's, in its order.
        teacher: (2, N, K) p.

    Returns:
        Scalar, in nats.
    """
    others = student.sum(dim=0) - student[: len(teacher)]
    return -(teacher * others).sum(dim=-1).mean() / (len(student) - 1)


class Teaching(NamedTuple):
    """The teacher's temperature as a function of the local steps done.

    Attributes:
        start: before the first step.
        end: after the warm-up.
        warmup_steps: steps in which it goes from start to end, linearly.
    """

    start: float
    end: float
    warmup_steps: int

    def at(self, step: int) -> float:
        """Temperature in step `step`, counted from 0 over the whole run."""
        done = 1.0 if self.warmup_steps == 0 else min(step / self.warmup_steps, 1.0)
        return self.start + (self.end - self.start) * done


class DINO(Objective):
    """Self-distillation without labels (DINO, algorithm 1 with multi-crop).

    The teacher sees two global views, the student these and smaller local crops. Head: linear - GELU per hidden layer,
    linear to a bottleneck of length 1, and prototypes whose rows have length 1. It has no batch norm: collapse is held
    off by the centre c (against one prototype for all) and the low temperature (against all alike).

    The centre is a statistic: a machine moves its own by the mean raw teacher output of every batch, and the server
    merges them as the sample-weighted mean. Under non-IID data a centre that stayed local would hide that a machine's
    classes share a prototype.

    Args:
        encoder: what it sits on.
        hidden: units of each hidden layer of the head.
        bottleneck: width of the bottleneck.
        prototypes: K.
        head_layers: linear layers up to the bottleneck, 2 or 3.
        student_temperature: tau_s.
        teacher_temperature: tau_t after the warm-up.
        teacher_temperature_start: tau_t before the warm-up.
        teacher_warmup_steps: local steps of the warm-up; 0 starts at `teacher_temperature`.
        centre_momentum: m of the centre per local step (equation 4).
        target_momentum: lambda of the teacher per local step, at the start.
        schedule_steps: local steps in which it rises to 1 along half a cosine; None keeps it constant.
        freeze_last_steps: first local steps in which the prototypes get no gradient (weight decay may shorten their
            rows, which changes nothing).
        local_crops: local views per image beside the two global ones.
        local_px: shorter side at which local crops are rendered; None is the images' own.
        local_scale: smallest and largest side of a local crop as a fraction of the image's.

    Raises:
        InputError: an option out of its range, or local crops of a size that the encoder does not take.
    """

    target_views = GLOBAL_VIEWS
    norm_gains = frozenset()

    def __init__(
        self,
        encoder: Encoder,
        hidden: int = 256,
        bottleneck: int = 64,
        prototypes: int = 1024,
        head_layers: int = 3,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_start: float = 0.04,
        teacher_warmup_steps: int = 0,
        centre_momentum: float = 0.9,
        target_momentum: float = 0.99,
        schedule_steps: int | None = None,
        freeze_last_steps: int = 0,
        local_crops: int = 0,
        local_px: int | None = None,
        local_scale: tuple[float, float] = (0.25, 0.6),
    ) -> None:
        for name, temperature in (
            ("student_temperature", student_temperature),
            ("teacher_temperature", teacher_temperature),
            ("teacher_temperature_start", teacher_temperature_start),
        ):
            if not 0.0 < temperature < float("inf"):
                raise InputError(f"dino: {name} is {temperature}, expected a finite number above 0")
        if head_layers not in (2, 3):
            raise InputError(f"dino: head_layers is {head_layers}, expected 2 or 3")
        if not 0.0 <= centre_momentum <= 1.0:
            raise InputError(f"dino: centre_momentum is {centre_momentum}, expected a number from 0 to 1")
        for name, count in (
            ("teacher_warmup_steps", teacher_warmup_steps),
            ("freeze_last_steps", freeze_last_steps),
            ("local_crops", local_crops),
        ):
            if count < 0:
                raise InputError(f"dino: {name} is {count}, expected 0 or more")
        smallest, largest = local_scale
        if not 0.0 < smallest <= largest <= 1.0:
            raise InputError(f"dino: local_scale is {list(local_scale)}, expected two rising fractions in (0, 1]")
        check_momentum("dino", target_momentum, schedule_steps)
        self.student_temperature = student_temperature
        self.teaching = Teaching(teacher_temperature_start, teacher_temperature, teacher_warmup_steps)
        self.centre_momentum = centre_momentum
        self.target_momentum, self.schedule_steps = target_momentum, schedule_steps
        self.freeze_last_steps = freeze_last_steps
        self.local_crops, self.local_scale = local_crops, (smallest, largest)
        self.hidden_layers = tuple(f"head.hidden{i + 1}" for i in range(head_layers - 1))
        self.heads = _head(encoder, self.hidden_layers, hidden, bottleneck, prototypes)
        self.statistics = {CENTRE: prototypes}
        self.head_views = GLOBAL_VIEWS + local_crops
        self.local_size: tuple[int, int] | None = None
        self.views_per_sample = self.head_views
        if local_crops > 0 and local_px is not None:
            self.local_size = _local_size(encoder, local_px)
            ratios = _cost_ratios(encoder, self.local_size)
            self.layer_views = {layer: GLOBAL_VIEWS + local_crops * ratio for layer, ratio in ratios.items()}
            macs = {p.name: p.macs * prod(p.shape) for p in encoder.neuron_map.parameters}
            work = sum(macs[p.name] * self.layer_views[p.rows] for p in encoder.neuron_map.parameters)
            self.views_per_sample = work / sum(macs.values())

    def draw(self, samples: Samples, chosen: Tensor, how: Augmentation, generator: torch.Generator) -> Batch:
        """Two global views, then the local ones; see `Objective.draw`."""
        x = samples.images(chosen)
        smallest, largest = self.local_scale
        local = replace(how, min_scale=smallest, max_scale=largest)
        views = [random_view(x, how, generator) for _ in range(GLOBAL_VIEWS)]
        views += [random_view(x, local, generator, self.local_size) for _ in range(self.local_crops)]
        return Batch(tuple(views))

    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """See `Objective.loss`; `weights.statistics` must hold the centre."""
        if target is None:
            raise ValueError("DINO needs a momentum target")
        shared, local = torch.cat(batch.views[:GLOBAL_VIEWS]), batch.views[GLOBAL_VIEWS:]
        count = len(batch.views[0])
        teacher = self._teach(features, weights, target, shared).unflatten(0, (-1, count))
        seen = [features(weights, shared)]
        if local:
            seen.append(features(weights, torch.cat(local)))
        learn = weights.step >= self.freeze_last_steps
        student = F.log_softmax(self._outputs(weights, torch.cat(seen), self.student_temperature, learn), dim=1)
        return cross_view_loss(student.unflatten(0, (-1, count)), teacher)

    def update_statistics(self, weights: Weights) -> None:
        """c <- m c + (1 - m) mean raw teacher output of the batch (DINO, equation 4)."""
        mean = weights.statistics.pop(BATCH_MEAN)
        weights.statistics[CENTRE].lerp_(mean, 1.0 - self.centre_momentum)

    @torch.no_grad()
    def _teach(self, features: Features, weights: Weights, target: Weights, views: Tensor) -> Tensor:
        """p of the global views, (2N, K); leaves their mean raw output for `update_statistics`."""
        raw = self._outputs(target, features(target, views))
        weights.statistics[BATCH_MEAN] = raw.mean(dim=0)
        return F.softmax((raw - weights.statistics[CENTRE]) / self.teaching.at(weights.step), dim=1)

    def loss_numbers(self, batch: int) -> int:
        """See `Objective.loss_numbers`: the prototypes' unit rows; the teacher's p, and while the student's outputs are put
        in order two more copies of them. (A whole block's are in order: from three views on it needs less.)"""
        prototypes, bottleneck = (self.heads.layer(name).neurons for name in ("head.prototypes", "head.bottleneck"))
        return prototypes * (bottleneck + batch * (GLOBAL_VIEWS + 2 * self.head_views))

    def _outputs(self, weights: Weights, x: Tensor, temperature: float = 1.0, learn_prototypes: bool = True) -> Tensor:
        """The head: (N, visible features) -> (N, K), cosines of bottleneck and prototypes over the temperature."""
        for layer in self.hidden_layers:
            x = F.gelu(weights.linear(x, f"{layer}.weight") + weights.vector(f"{layer}.bias"))
            x = weights.rescale(x, layer)
        x = weights.linear(x, "head.bottleneck.weight") + weights.vector("head.bottleneck.bias")
        # Dividing here spares a copy of the much wider outputs.
        return weights.unit_linear(F.normalize(x, dim=1) / temperature, "head.prototypes.weight", learn_prototypes)


def _head(encoder: Encoder, hidden_layers: tuple[str, ...], hidden: int, bottleneck: int, prototypes: int) -> NeuronMap:
    # The bottleneck is never thinned: its length, and that of the prototypes' rows, would not be the whole model's.
    layers, parameters = [], []
    inputs, columns = encoder.feature_dim, encoder.feature_columns
    for name, width in (*((layer, hidden) for layer in hidden_layers), ("head.bottleneck", bottleneck)):
        last = name == "head.bottleneck"
        layers.append(Layer(name, width, stored=2.0, always_visible=last))
        parameters += [
            Parameter(f"{name}.weight", (width, inputs), name, columns, macs=1),
            Parameter(f"{name}.bias", (width,), name),
        ]
        inputs, columns = width, None if last else name
    layers.append(Layer("head.prototypes", prototypes, always_visible=True))
    parameters.append(Parameter("head.prototypes.weight", (prototypes, inputs), "head.prototypes", macs=1))
    return NeuronMap(tuple(layers), tuple(parameters))


def _local_size(encoder: Encoder, local_px: int) -> tuple[int, int]:
    """(H, W) of a local crop in the images' proportions."""
    height, width = encoder.image_shape[1:]
    shorter = min(height, width)
    size = (round(height * local_px / shorter), round(width * local_px / shorter))
    if local_px > shorter or not encoder.takes(*size):
        raise InputError(
            f"dino: local_px is {local_px}, but this {type(encoder).__name__} for images of {height}x{width} takes no crops of "
            f"{size[0]}x{size[1]}: set local_crops to 0 or local_px to {shorter}"
        )
    return size


def _cost_ratios(encoder: Encoder, size: tuple[int, int]) -> dict[str, float]:
    """Encoder layer -> forward FLOPs of its stage on a local crop over those on a whole image.

    Counted on one image rather than taken from the areas: strides round up, attention falls with the square (torch counts
    it in plain matrix products only).
    """
    weights = whole_weights(encoder.init_state(torch.Generator().manual_seed(0)))
    x = [torch.zeros(1, encoder.image_shape[0], *shape) for shape in (encoder.image_shape[1:], size)]
    ratios: dict[str, float] = {}
    for index, layers in enumerate(encoder.stages):
        flops = []
        for i in range(2):
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                x[i] = encoder.stage(index, weights, x[i])
            flops.append(counter.get_total_flops())
        ratios |= dict.fromkeys(layers, flops[1] / flops[0])
    return ratios
