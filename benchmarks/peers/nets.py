"""The benchmark's two networks out of torch.nn, for the peers: the same layers, norms and shapes as ours."""

from __future__ import annotations

import torch
from torch import nn


def conv_net() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for width, stride in zip(CONV_WIDTHS, CONV_STRIDES, strict=True):
        layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.GroupNorm(1, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def mlp_net() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 784
    for width in MLP_WIDTHS:
        layers += [nn.Linear(inputs, width, bias=False), nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


CONV_WIDTHS, CONV_STRIDES = (32, 64, 128, 128), (1, 2, 2, 2)
MLP_WIDTHS = (256, 256, 128)
SHAPES = {"conv": (3, 32, 32), "mlp": (1, 28, 28)}
CLIENTS = {"conv": 8, "mlp": 32}
STEPS, BATCH, RATE = 5, 32, 0.05
PER_CLIENT = STEPS * BATCH
NETS = {"conv": conv_net, "mlp": mlp_net}


def uint8_data(case: str, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(client)
    x = torch.randint(0, 256, (PER_CLIENT, *SHAPES[case]), generator=generator, dtype=torch.uint8)
    return x, torch.randint(0, 10, (PER_CLIENT,), generator=generator)


def float_data(case: str, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised once beforehand, which ours does at every step: the peers are spared that work."""
    x, y = uint8_data(case, client)
    return (x.float() - 127.5) / 64.0, y
