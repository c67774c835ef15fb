"""Episodes on real machines: what a round cost is measured, not simulated, and observed as in the other tiers."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.core import Core, Decisions
from envs.memory import CHARGE, HERE, SLOW, remember
from envs.observation import step_flops, write_machines
from envs.single import ScenarioLike, SingleEnv, compile_scenarios
from envs.training import RealLearner, TrainingEnv
from fedcore.engines.remote import DONE, LATE, RemoteEngine
from fedcore.fleet import columns as c
from fedcore.fleet.compile import DAY_S, HOUR_S
from fedcore.training import ProgressScale
from fedcore.workload import Prepared
from fedcore.world import World, with_reference, with_samples

Floats = NDArray[np.float64]

ASK_AGAIN_S = 900.0
"""After which a machine whose battery was low when it was last heard of is asked all the same."""
PRESENT_S = 0.2
"""Between two looks for machines while none is there."""
SIMULATED = (c.ON_S, c.OFF_S, c.JOIN_S, c.N_WINDOWS, c.LINK_SIGMA, c.LINK_SPREAD)
"""Parameters of what is drawn in simulation and happens by itself on real machines."""


def as_measured(world: World) -> World:
    """The same world without conditions of its own: who is there, and how fast, is for the machines to show."""
    parameters = world.arrays.parameters.copy()
    parameters[:, SIMULATED] = 0.0
    exists = parameters[:, c.FLOPS_PER_S] > 0
    for column in (c.SLOWDOWN, c.THROTTLE, c.OUTAGE_FACTOR):
        parameters[exists, column] = 1.0
    parameters[:, c.TRACE] = -1.0
    return replace(world, arrays=replace(world.arrays, parameters=parameters, traces=(), windows=np.zeros((0, 2))))


class MeasuredCore(Core):
    """One episode whose rounds are played by machines behind a `RemoteEngine`."""

    began_s: float = 0.0
    meters: set[str] = set()  # noqa: RUF012 - replaced at every reset
    low: set[int] = set()  # noqa: RUF012 - likewise: machines whose battery is at its reserve or below

    def reset(self, which: NDArray[np.int64], generators: Any) -> None:
        """See `Core.reset`; the machines that there are now are the ones that the first observation shows."""
        super().reset(which, generators)
        self.meters, self.low = set(), set()
        self._look({})
        self.began_s = time.monotonic()

    @property
    def engine(self) -> RemoteEngine:
        """What carries blocks to the machines."""
        assert isinstance(self.learner, RealLearner)
        assert isinstance(self.learner.engine, RemoteEngine)
        return self.learner.engine

    def _said_step_s(self, index: NDArray[np.integer]) -> Floats:
        """Seconds of a step on every machine as the scenario says, by its block's place in `costs`."""
        p, step = self.parameters[0, : len(index)], self.costs[int(self.world_index[0]), index]
        return np.maximum(p[:, c.STEP_OVERHEAD_S] + step_flops(p, step) / np.maximum(p[:, c.FLOPS_PER_S], 1.0), 1e-9)

    def _look(self, slow: dict[int, float]) -> None:
        """Who is connected and free and how loaded, and the machines' part of the observation as it follows.

        Args:
            slow: what its load, heat or age make of a machine's steps, by machine that has just trained: what they take
                over what the scenario says of them. A node that has just come has timed some of its own.
        """
        here, charge = self._present()
        self.conditions[0, : len(here), c.ON] = here
        self.conditions[0, : len(here), c.CHARGE_J] = charge * self.parameters[0, : len(here), c.BATTERY_J]
        self.heard[0, : len(here), CHARGE], self.heard[0, : len(here), HERE] = charge, here
        w = int(self.world_index[0])
        whole = self._said_step_s(np.full(len(here), self.costs.shape[1] - 1))
        slow = {k: step_s / whole[k] for k, step_s in self.engine.roll.timed().items()} | slow
        for k, factor in (slow | self.engine.slowness(here, slow)).items():
            self.heard[0, k, SLOW] = factor
        write_machines(
            self.fleets, self.machine_constants, w, self.telemetry, self.totals, self.shares, self.heard, self.observed, 0
        )  # fmt: skip

    def _present(self) -> tuple[list[bool], Floats]:
        """Who is connected, free and above its battery's reserve, and the charge of each battery, 0 to 1; it is 1, as on mains,
        for machines that tell none."""
        here, told, p = self.engine.available(), self.engine.charges(), self.parameters[0]
        charge = np.array([told.get(k, 1.0) for k in range(len(here))])
        low = (p[: len(here), c.BATTERY_J] > 0.0) & (charge <= p[: len(here), c.BATTERY_RESERVE])
        heard_at = self.engine.roll.charge_at
        # Who is not asked answers nothing, and its words may not come through: then it is asked once, to hear it.
        low &= [time.monotonic() - heard_at.get(k, 0.0) < ASK_AGAIN_S for k in range(len(here))]
        for k in sorted({int(k) for k in np.flatnonzero(low)} ^ self.low):
            name, reserve = self.engine.names[k], f"its reserve of {p[k, c.BATTERY_RESERVE]:.0%}"
            beside = f"not asked at or below {reserve}" if low[k] else f"asked again above {reserve}"
            if not low[k] and charge[k] <= p[k, c.BATTERY_RESERVE]:
                beside = f"when last heard of {ASK_AGAIN_S / 60:.0f} minutes ago: asked once, at or below {reserve}"
            self.engine.on_event(f"machine {name}: battery at {charge[k]:.0%}, {beside}")
            self.low ^= {k}
        return [bool(there and not empty) for there, empty in zip(here, low, strict=True)], charge

    def play(self, decisions: Decisions) -> Floats:
        """See `Core.play`."""
        n = len(self.engine.names)
        w, p = int(self.world_index[0]), self.parameters[0]
        here = self._wait(self.conditions[0, :n, c.ON] > 0.5)
        status = np.full(n, c.DONE)
        fits = decisions.index[0, :n] <= p[:n, c.MOST]
        status[~fits], status[decisions.index[0, :n] <= 0], status[~here] = c.INFEASIBLE, c.RESTING, c.AWAY
        asked = np.zeros((1, self.max_machines), dtype=np.bool_)
        asked[0, :n] = status == c.DONE
        progress = self.learner.advance(self, decisions, asked)
        self._write_telemetry(status, decisions)
        self.note_teaching(decisions, self.came_back)
        remember(self.fleets, w, self.telemetry, self.heard, 0)
        slow = self.telemetry[0, :n, c.STEP_S] / self._said_step_s(decisions.index[0, :n])
        done = np.flatnonzero(self.telemetry[0, :n, c.STATUS] == c.DONE)
        self._look({int(k): float(slow[k]) for k in done})
        return progress

    def _wait(self, here: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where nobody was there at the last look, wait for someone as long as the scenario says."""
        until = time.monotonic() + self.world().scenario.fleet.server.wait_s
        while not here.any() and time.monotonic() < until:
            time.sleep(PRESENT_S)
            here = np.array(self._present()[0])
        return here

    def _write_telemetry(self, status: NDArray[np.int64], decisions: Decisions) -> None:
        """Telemetry and totals of the round that has just been played.

        Seconds between sending a block and having its answer that the machine did not work on it are its transfers'; they
        are split between both ways by bytes, since clocks of different machines do not agree.
        """
        assert isinstance(self.learner, RealLearner)
        report, p, t = self.learner.report, self.parameters[0], self.telemetry[0]
        assert report is not None
        now = time.monotonic()
        length_s, self.began_s = now - self.began_s, now
        t[:] = 0.0
        t[: len(status), c.STATUS] = status
        energy_j, moved = 0.0, 0
        for k, m in self.engine.measured.items():
            merged = m.status == DONE and report.came_back[k]
            t[k, c.STATUS] = c.DONE if merged else c.LATE if m.status == LATE else c.LEFT
            both = m.received_bytes + m.sent_bytes
            transfer_s = max(m.elapsed_s - m.node_s, 1e-6) if both else 0.0
            down_s = transfer_s * m.received_bytes / both if both else 0.0
            t[k, c.DOWNLOAD_S], t[k, c.UPLOAD_S], t[k, c.COMPUTE_S] = down_s, transfer_s - down_s, m.compute_s
            t[k, c.FINISH_S], t[k, c.IDLE_S] = m.elapsed_s, max(length_s - m.compute_s, 0.0)
            t[k, c.SENT_BYTES], t[k, c.RECEIVED_BYTES] = m.sent_bytes, m.received_bytes
            t[k, c.STEP_S] = m.compute_s / decisions.steps[0]
            t[k, c.MEASURED_DOWN_BPS] = max(8.0 * m.received_bytes / max(down_s, 1e-6), 1.0)
            t[k, c.MEASURED_UP_BPS] = max(8.0 * m.sent_bytes / max(transfer_s - down_s, 1e-6), 1.0)
            radio_j = 8.0 * (m.sent_bytes * p[k, c.TX_J_PER_BIT] + m.received_bytes * p[k, c.RX_J_PER_BIT])
            work_j = p[k, c.ACTIVE_W] * m.compute_s if m.joules is None else m.joules
            t[k, c.ENERGY_J] = work_j + p[k, c.IDLE_W] * t[k, c.IDLE_S] + radio_j
            if m.status == DONE:
                self.meters.add(m.meter)
            energy_j += t[k, c.ENERGY_J] + 8.0 * both * self.fleet[0, c.SERVER_J_PER_BIT]
            moved += both
        hour = min(int((self.fleet[0, c.START_S] + self.spent[0, 0]) % DAY_S / HOUR_S), 23)
        self.totals[0] = length_s, energy_j, moved, energy_j * self.fleet[0, c.KG_CO2E_PER_J + hour]


class MeasuredEnv(TrainingEnv):
    """`IntraFed/Training-v0` on real machines: same spaces and reward; seconds, joules, bytes and losses are measured.

    Args:
        scenario: exactly one; its fleet says who the machines are, and its figures are what is advertised of them. What it
            says of presence, load and links is for simulation; of batteries it says which machines have one and its reserve,
            below which they are not asked. Their charge is what nodes tell, full where they tell none.
        engine: connected to all machines.
        data: what the server holds: images that progress is measured on.
        scale: of progress; None takes the target of the scenario's calibration.
        reference_rounds: as `TrainingEnv`'s.
        max_machines: K_max.
    """

    def __init__(
        self,
        scenario: ScenarioLike,
        engine: RemoteEngine,
        data: Prepared | None = None,
        scale: ProgressScale | None = None,
        max_machines: int = 16,
        reference_rounds: float | None = None,
    ) -> None:
        [world] = compile_scenarios(scenario, max_machines, engine.channels)
        world = world if reference_rounds is None else with_reference(world, reference_rounds)
        said = world.samples.astype(int)
        dealt = [len(held) or int(said[k]) for k, held in enumerate(engine.samples)]
        worlds = [with_samples(as_measured(world), dealt)]
        SingleEnv.__init__(self, worlds, RealLearner(data, scale, engine), "efficiency", None, MeasuredCore)

    def step(self, action: NDArray[np.floating]):  # type: ignore[no-untyped-def]
        """See `TrainingEnv.step`; `info` adds `lost`, `meter`, and by machine `measured` (`MachineRound`'s figures) and
        `slowness` (what its steps take over what the scenario says, as last heard) and `charge` (of its battery, 0 to 1, of
        those that tell it)."""
        observation, reward, terminated, truncated, info = super().step(action)
        report, core = self.learner.report, self.core
        assert report is not None
        assert isinstance(core, MeasuredCore)
        measured = {core.engine.names[k]: asdict(m) for k, m in core.engine.measured.items()}
        slowness = {name: float(core.heard[0, k, SLOW]) for k, name in enumerate(core.engine.names)}
        meter = " and ".join(sorted(core.meters)) or "none"
        charge = {core.engine.names[k]: value for k, value in sorted(core.engine.charges().items())}
        info.update(lost=list(report.lost), meter=meter, measured=measured, slowness=slowness, charge=charge)
        return observation, reward, terminated, truncated, info
