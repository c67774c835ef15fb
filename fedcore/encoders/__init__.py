"""Encoders by name. A new one is one file here and one line in `ENCODERS`."""

from fedcore.encoders.base import Encoder
from fedcore.encoders.convnet import ConvNet
from fedcore.encoders.mlp import MLP

ENCODERS: dict[str, type[ConvNet] | type[MLP]] = {"convnet": ConvNet, "mlp": MLP}

__all__ = ["ENCODERS", "MLP", "ConvNet", "Encoder"]
