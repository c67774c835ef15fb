"""Federated methods by name. A new one is one file here and one line in `METHODS`."""

from fedcore.methods.base import Method, RoundCost, Server
from fedcore.methods.exclusive import Exclusive
from fedcore.methods.fedavg import FedAvg
from fedcore.methods.fedbyol import FedBYOL
from fedcore.methods.fedema import FedEMA
from fedcore.methods.federated_dropout import FederatedDropout
from fedcore.methods.fedlama import FedLAMA
from fedcore.methods.fedlama_neurons import FedLAMANeurons
from fedcore.methods.fedprox import FedProx
from fedcore.methods.fedrolex import FedRolex
from fedcore.methods.fedu import FedU
from fedcore.methods.fjord import FjORD
from fedcore.methods.heterofl import HeteroFL
from fedcore.methods.intralayer import IntraLayer
from fedcore.methods.ist import IST
from fedcore.methods.ldawa import LDAWA
from fedcore.methods.lw_fedssl import LWFedSSL
from fedcore.methods.pfedme import PFedMe
from fedcore.methods.private import Private
from fedcore.methods.prog_fedssl import ProgFedSSL
from fedcore.methods.scaffold import Scaffold
from fedcore.methods.splitfed import SplitFedV1, SplitFedV2
from fedcore.methods.splitnn import SplitNN

METHODS: dict[str, type[Method]] = {
    FedAvg.name: FedAvg,
    IntraLayer.name: IntraLayer,
    FedProx.name: FedProx,
    Scaffold.name: Scaffold,
    PFedMe.name: PFedMe,
    LDAWA.name: LDAWA,
    FedBYOL.name: FedBYOL,
    FedU.name: FedU,
    FedEMA.name: FedEMA,
    FedLAMA.name: FedLAMA,
    FedLAMANeurons.name: FedLAMANeurons,
    LWFedSSL.name: LWFedSSL,
    ProgFedSSL.name: ProgFedSSL,
    SplitFedV1.name: SplitFedV1,
    SplitFedV2.name: SplitFedV2,
    SplitNN.name: SplitNN,
    IST.name: IST,
    HeteroFL.name: HeteroFL,
    FederatedDropout.name: FederatedDropout,
    FjORD.name: FjORD,
    FedRolex.name: FedRolex,
    Exclusive.name: Exclusive,
    Private.name: Private,
}

__all__ = ["METHODS", "FedAvg", "IntraLayer", "Method", "RoundCost", "Server"]
