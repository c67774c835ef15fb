"""The real tier: every step trains the encoder with torch on the machines' own data, in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from envs.core import Core, Decisions
from envs.single import ScenarioLike, SingleEnv, compile_scenarios
from fedcore.allocation import least_share
from fedcore.data.dataset import Dataset
from fedcore.dynamics import load_calibration, made_of
from fedcore.engines import Engine
from fedcore.methods.private import Private
from fedcore.training import FederatedTraining, ProgressScale, RoundReport
from fedcore.workload import Prepared, build_training, made_here, prepare_data, target_holds
from fedcore.world import compile_world, with_reference, with_samples
from scenarios import InputError

Floats = NDArray[np.float64]


def learner_seed(seed: int) -> int:
    """Seed of weights and of how data are dealt in an episode of one scenario that was reset with `seed`."""
    generator, _ = seeding.np_random(seed)
    return int(generator.integers(2**63, dtype=np.int64)) % 2**31


class RealLearner:
    """Progress by real federated training of one episode.

    Args:
        data: dealt to the machines; None deals the embedded ones of the scenario anew at every reset.
        scale: of progress; None takes the target of the scenario's calibration.
        engine: carries blocks to machines; None trains in this process.
    """

    def __init__(self, data: Prepared | None, scale: ProgressScale | None, engine: Engine | None = None) -> None:
        self.data, self.given, self.scale, self.engine = data, data is not None, scale, engine
        self.training: FederatedTraining | None = None
        self.report: RoundReport | None = None

    @property
    def immutable(self) -> tuple[Any, ...]:
        """The images, which copies of an episode share."""
        return (self.data,) if self.data is not None else ()

    @property
    def training_names(self) -> tuple[str, ...]:
        """Names of the machines in training."""
        assert self.training is not None
        return self.training.machine_names

    def reset(self, core: Core, which: NDArray[np.int64]) -> None:
        """Fresh weights, and which machine has which site, seeded by the episode's key."""
        world = core.world()
        seed = int(core.key[0]) % 2**31
        if not self.given:
            self.data = prepare_data(world.scenario, seed=seed)
        assert self.data is not None
        scale = self.scale
        if scale is None:
            scale = ProgressScale(world.calibration.untrained_infonce, world.calibration.target_infonce)
        self.training = build_training(world.scenario, self.data, scale, seed, engine=self.engine)
        self.report = None

    def advance(self, core: Core, decisions: Decisions, done: NDArray[np.bool_]) -> Floats:
        """Train the blocks that come back, for real."""
        assert self.training is not None
        machines = len(self.training.machine_names)
        # An action cannot know how narrow the encoder is: what is decided above 0 stands for one neuron at least.
        least = least_share(self.training.model.neuron_map)
        shares = [max(float(s), least) if s > 0 else 0.0 for s in decisions.shares[0, :machines]]
        self.report = self.training.play(shares, int(decisions.steps[0]), [bool(d) for d in done[0, :machines]])
        return np.array([self.report.progress])


class TrainingEnv(SingleEnv):
    """The same task as `IntraFed/Orchestration-v0`, on real federated self-supervised training.

    ## Description

    Every step slices the blocks out of the encoder, trains them with torch on each machine's own images for H steps,
    merges what comes back and measures progress without labels. Seconds, joules and bytes are those of the simulated
    fleet; blocks that it loses (machine left, deadline, memory, battery) are lost to training too. A policy moves
    between the tiers unchanged.

    ## Observation Space

    As `IntraFed/Orchestration-v0`.

    ## Action Space

    As `IntraFed/Orchestration-v0`.

    ## Reward

    As `IntraFed/Orchestration-v0`; progress is the held-out InfoNCE of the features on a fixed server-side set under
    fixed views, 0 for the untrained encoder, 1 for the calibration's target. It may fall.

    ## Starting State

    As `IntraFed/Orchestration-v0`; encoder weights, and which machine has which site of an embedded set, are
    drawn anew from the episode's seed.

    ## Episode End

    As `IntraFed/Orchestration-v0`.

    ## Arguments

    - `scenario`: name, path or `Scenario`; exactly one.
    - `reward`, `max_machines`, `render_mode`: as `IntraFed/Orchestration-v0`.
    - `dataset`: a `fedcore.data.dataset.Dataset` to train on instead of the scenario's.
    - `target_infonce`: progress 1: needed for data of your own, files that `workload.data` names, and an encoder or objective
      that `workload.calibration` was not made of, unless that is a file of your own.
      `agents.own_target.measure(scenario, data)` measures it, and
    - `reference_rounds`: rounds that the reference policy needs to get there: T_ref, E_ref, B_ref and budgets go by it. None
      takes those of simulation, which knows the calibration's training only.

    `info` adds `infonce`, `losses` (by name, of the machines whose blocks came back), `refused` (one sentence per refused
    update), `feature_std`, `effective_rank` and `collapsed`; and `epsilon`, what the run has spent of the privacy of the
    machine that took part most, where the scenario has `workload.privacy`.

    ## Version History

    - v0: first version.
    """

    def __init__(
        self,
        scenario: ScenarioLike = "farm-lte",
        reward: str | None = None,
        max_machines: int = 16,
        render_mode: str | None = None,
        dataset: Dataset | None = None,
        target_infonce: float | None = None,
        reference_rounds: float | None = None,
    ) -> None:
        worlds = compile_scenarios(scenario, max_machines, 1 if dataset is None else dataset.images.shape[3])
        if len(worlds) != 1:
            raise ValueError(f"got {len(worlds)} scenarios, expected exactly one: images are dealt to one fleet")
        own = worlds[0].scenario
        if target_infonce is None and not target_holds(own.workload, dataset is not None):
            if dataset is None:
                known = load_calibration(own.workload.calibration).workload or {}
                what = ", ".join(f"{k} {v!r}" for k, v in made_of(own.workload).items() if v != known.get(k))
            else:
                what = dataset.name
            raise InputError(
                f"scenario {own.name}: workload.calibration {own.workload.calibration!r} does not say what progress 1 is of "
                f"{what}; expected target_infonce, which agents.own_target.measure measures, or a calibration file of your own "
                "(python -m fedcore.calibrate)"
            )
        data = None if made_here(own.workload) and dataset is None else prepare_data(own, dataset)
        if data is not None:
            dealt = [len(client) for client in data.clients]
            worlds = (with_samples(compile_world(own, max_machines, data.channels), dealt),)
        if reference_rounds is not None:
            worlds = (with_reference(worlds[0], reference_rounds),)
        scale = None if target_infonce is None else ProgressScale(np.inf, target_infonce)
        super().__init__(worlds, RealLearner(data, scale), reward, render_mode)

    @property
    def learner(self) -> RealLearner:
        """What trains, as the core has it: `set_state` replaces it."""
        learner = self.core.learner
        assert isinstance(learner, RealLearner)
        return learner

    def step(self, action: NDArray[np.floating]):  # type: ignore[no-untyped-def]
        """Play one real round; see the class."""
        observation, reward, terminated, truncated, info = super().step(action)
        report = self.learner.report
        assert report is not None
        info.update(
            infonce=report.infonce,
            losses={
                name: float(loss)
                for name, loss in zip(self.learner.training_names, report.losses, strict=True)
                if np.isfinite(loss)
            },
            refused=list(report.refused),
            feature_std=report.feature_std,
            effective_rank=report.effective_rank,
            collapsed=report.collapsed,
        )
        training = self.learner.training
        if training is not None and isinstance(training.method, Private):
            info["epsilon"] = training.method.epsilon(training.server)
        return observation, reward, terminated, truncated, info

    def blocks(self) -> list[list[NDArray[np.int64]]]:
        """See `SingleEnv.blocks`."""
        report = self.learner.report
        if report is None:
            return [[] for _ in self.core.world().arrays.names]
        return [[] if b is None else [index.numpy() for index in b.trained.values()] for b in report.blocks]
