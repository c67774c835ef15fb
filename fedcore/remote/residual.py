"""What rounding left out of the blocks that a node has sent, which is added to the next (error feedback), in one file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save

from fedcore.files import write_bytes
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.tensor_file import read_tensors

FILE, CARD = "residual.safetensors", "intrafed-residual"
BEFORE, AFTER = "before/", "after/"


@dataclass
class Residual:
    """Of one run, after the last round that the node trained and before it: a server that was killed in that round asks for
    it again, and is to get the same answer.

    Attributes:
        run: whose; another's residual is worth nothing.
        round_index: of the last round; -1 before the first.
        before: by parameter, whole tensors, as that round found it.
        after: as it left it.
    """

    run: str = ""
    round_index: int = -1
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)

    def begin(self, run: str, round_index: int) -> State:
        """What a round starts from, which `encode_result` may change in place; empty for another run, and for a round before
        the last, whose residual is gone."""
        if run != self.run or round_index < self.round_index:
            self.before = {}
        elif round_index > self.round_index:
            self.before = self.after
        self.run, self.round_index = run, round_index
        self.after = {name: value.clone() for name, value in self.before.items()}
        return self.after

    def write(self, folder: Path) -> None:
        """To the node's folder; raises as `write_bytes`."""
        tensors = {f"{BEFORE}{name}": value for name, value in self.before.items()}
        tensors |= {f"{AFTER}{name}": value for name, value in self.after.items()}
        write_bytes(folder / FILE, save(tensors, {CARD: json.dumps({"run": self.run, "round": self.round_index})}))

    @staticmethod
    def read(folder: Path, model: Model) -> Residual:
        """What was kept there; another model's, or a damaged file's, is worth nothing and is left out."""
        try:
            metadata, tensors = read_tensors(folder / FILE)
            card = json.loads(metadata[CARD])
            kept = Residual(str(card["run"]), int(card["round"]))
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            return Residual()
        shapes = {p.name: p.shape for p in model.neuron_map.parameters}
        for name, value in tensors.items():
            into, parameter = (kept.before if name.startswith(BEFORE) else kept.after), name.partition("/")[2]
            if tuple(value.shape) != shapes.get(parameter):
                return Residual()
            into[parameter] = value
        return kept
