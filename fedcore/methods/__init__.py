"""Federated methods by name. A new one is one file here and one line in `METHODS`."""

from fedcore.methods.base import Method, RoundCost, Server
from fedcore.methods.fedavg import FedAvg
from fedcore.methods.intralayer import IntraLayer

METHODS: dict[str, type[Method]] = {
    FedAvg.name: FedAvg,
    IntraLayer.name: IntraLayer,
}

__all__ = ["METHODS", "FedAvg", "IntraLayer", "Method", "RoundCost", "Server"]
