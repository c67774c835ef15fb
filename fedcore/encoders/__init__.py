"""Encoders by name. A new one is one file here and one line in `ENCODERS`."""

from fedcore.encoders.base import Encoder
from fedcore.encoders.convkan import ConvKAN
from fedcore.encoders.convnet import ConvNet
from fedcore.encoders.gpt import GPT
from fedcore.encoders.mlp import MLP
from fedcore.encoders.resnet import ResNet
from fedcore.encoders.vit import ViT

ENCODERS: dict[str, type[Encoder]] = {
    "convkan": ConvKAN,
    "convnet": ConvNet,
    "gpt": GPT,
    "mlp": MLP,
    "resnet": ResNet,
    "vit": ViT,
}

__all__ = ["ENCODERS", "GPT", "MLP", "ConvKAN", "ConvNet", "Encoder", "ResNet", "ViT"]
