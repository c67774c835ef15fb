"""What would a memory of its own be worth to an orchestrator? `python benchmarks/recurrent.py` (docs/policies.md).

Observations carry what envs/memory.py, learning's `surplus` and the last round's outcome remember; whatever else past rounds
tell of load, links, weather and luck, a recurrent policy could keep. So the same lessons (agents/lessons.py: what every move
loses to the best, kept to the end) are taught to three networks: the policies' own; one that is not shown what observations
remember; and one with a GRU per machine over all rounds of the episode. They are judged by what their likeliest moves lose in
unseen scenarios. Moves are the menu's, and some of those remember by themselves (`proven` asks by `surplus` whoever chooses
it): this tells what a memory is worth for choosing among them, not what a policy without a menu could do with one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.progress import track
from torch import Tensor, nn

from agents.frozen import load_policy
from agents.lessons import EVERY, STRAY, likeliest, lost, moves_tried, scores_of
from agents.network import MenuNetwork, for_any_fleet
from agents.statistics import Floats, interval
from agents.tables import Grid
from agents.vecenv import BatchedVecEnv
from agents.warm_start import WarmStart, apart, own_moves_lose
from agents.worlds import random_worlds
from envs.menu import LEVELS, PATTERNS, menu_size
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE
from fedcore.parallel import worker_pool
from fedcore.world import World

REMEMBERED = (
    "measurement_age", "last_share", "last_outcome", "last_idle", "leaves", "surplus", "last_gain", "gain_trend", "last_steps",
    "last_round_time", "last_round_energy", "last_round_bytes",
)  # fmt: skip
"""Features of past rounds. Link rates as last measured are left: without them nothing would be known of links."""
GROUP, CHUNK = 32, 16
"""Episodes and rounds of one optimiser step; a GRU's state goes on from chunk to chunk, gradients do not."""
WARM = WarmStart()
PROVEN = list(PATTERNS).index("proven") * LEVELS + LEVELS - 1
DRAWS = 2000


@dataclass(frozen=True)
class Options:
    """What a memory is worth.

    Attributes:
        scenarios: random ones of the training range to learn in, and a quarter as many of validation's to be judged in.
        envs: episodes side by side to learn from, and half as many more to judge by.
        rounds: of each.
        epochs: through all lessons.
        width: of all hidden layers.
        seeds: trainings of each network.
        workers: processes.
    """

    scenarios: int = 512
    envs: int = 1024
    rounds: int = 96
    epochs: int = 12
    width: int = 96
    seeds: int = 2
    workers: int = 2


@dataclass(frozen=True)
class Histories:
    """Rounds of episodes side by side, one after the other, another episode where one ends.

    Attributes:
        observations: (T, B, size).
        lost: (T, B, menu) what every move loses if it is kept, NaN where it was not searched.
        ends: (T, B) 1 where an episode ended with that round.
        world: (T, B) number of the scenario.
    """

    observations: Tensor
    lost: Tensor
    ends: Tensor
    world: Tensor


def histories(worlds: list[World], envs: int, rounds: int, seed: int) -> Histories:
    """Play `ppo-default` with a stray move now and then, and search one in `EVERY` rounds."""
    torch.set_num_threads(1)
    network = load_policy("ppo-default").network
    env, rng, moves = BatchedVecEnv(worlds, envs, seed, menu=True), np.random.default_rng([seed, 7]), moves_tried()
    observation, seen, losses, ended, where = env.reset(), [], [], [], []
    for t in range(rounds):
        which = np.flatnonzero((np.arange(envs) + t) % EVERY == 0)
        loses = np.full((envs, menu_size()), np.nan, dtype=np.float32)
        loses[which] = lost(scores_of(env.core, which, rng))
        chosen = likeliest(network, observation)
        seen.append(observation.copy())
        losses.append(loses)
        where.append(env.core.world_index.copy())
        env.step_async(np.where(rng.random(envs) < STRAY, rng.choice(moves, size=envs), chosen))
        observation, _, ends, _ = env.step_wait()
        ended.append(ends.astype(np.float32))
    return Histories(*(torch.from_numpy(np.stack(part)) for part in (seen, losses, ended, where)))


class AsItIs(nn.Module):
    """The policies' own network, round by round.

    Args:
        width: of all hidden layers.
        hidden: names of features that it is not shown.
    """

    def __init__(self, width: int, hidden: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.network = MenuNetwork(menu_size(), width)
        machine = [name not in hidden for name in MACHINE_FEATURES]
        fleet = [name not in hidden for name in FLEET_FEATURES]
        self.shown = torch.tensor(machine, dtype=torch.float32), torch.tensor(fleet, dtype=torch.float32)

    def forward(self, history: Histories, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Ratings (T, B, menu), and the state after them (none)."""
        x = history.observations.flatten(0, 1)
        machine, fleet = self.shown
        x = x * torch.cat([machine.repeat((x.shape[1] - N_FLEET) // N_MACHINE), fleet])
        return self.network(x).unflatten(0, history.ends.shape), None


class Recurrent(nn.Module):
    """The same with a GRU per machine between its two layers; the state is zero when an episode begins."""

    def __init__(self, width: int) -> None:
        super().__init__()
        plain = for_any_fleet(MenuNetwork(menu_size(), width))  # a state for every machine, round by round
        self.encoder, self.head, self.cell = plain.encoder, plain.head, nn.GRUCell(width, width)
        self.counts = nn.Parameter(torch.zeros(width))  # it starts as the network without, and takes up what helps

    def forward(self, history: Histories, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As `AsItIs`, with a state (B x K, width)."""
        ratings = []
        for observation, ends in zip(history.observations, history.ends, strict=True):
            hidden, there, fleet = self.encoder.each_machine(observation)
            state = self.cell(hidden.flatten(0, 1), state)
            remembered = self.counts * state.unflatten(0, there.shape)
            ratings.append(self.head(self.encoder.pooled(hidden + remembered, there, fleet)))
            state = state * (1.0 - ends).repeat_interleave(there.shape[1])[:, None]
        return torch.stack(ratings), state


def part_of(history: Histories, start: int, envs: Tensor) -> Histories:
    """`CHUNK` rounds from a start on, of some episodes."""
    return Histories(*(field[start : start + CHUNK, envs] for field in vars(history).values()))


def teach(student: nn.Module, history: Histories, epochs: int, seed: int) -> None:
    """As `agents.warm_start` teaches the actor, chunk by chunk."""
    rounds, envs = history.ends.shape
    groups, starts = -(-envs // GROUP), range(0, rounds, CHUNK)
    optimizer = torch.optim.Adam(student.parameters(), lr=WARM.learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * groups * len(starts))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for group in torch.randperm(envs, generator=generator).split(GROUP):
            state = None
            for start in starts:
                part = part_of(history, start, group)
                ratings, state = student(part, state)
                known = ~part.lost[:, :, 0].isnan()
                log, loses = ratings[known].log_softmax(dim=1), part.lost[known]
                loss = 5.0 * apart(WARM.temperature * log, loses) + own_moves_lose(log, WARM.temperature * log, loses)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(student.parameters(), 1.0)
                optimizer.step()
                falling.step()
                state = None if state is None else state.detach()


@torch.no_grad()
def loses(student: nn.Module | None, history: Histories) -> Floats:
    """(scenarios,) what its likeliest moves lose, mean over the rounds searched in each scenario; None makes `proven`."""
    known = ~history.lost[:, :, 0].isnan()
    if student is None:
        moves = torch.full(history.ends.shape, PROVEN)
    else:
        moves = student(history, None)[0].argmax(dim=2)
    by = history.lost.gather(2, moves[:, :, None])[:, :, 0][known].double().numpy()
    world = history.world[known].numpy()
    counts = np.bincount(world)
    return (np.bincount(world, by) / np.maximum(counts, 1))[counts > 0]


STUDENTS: dict[str, Callable[[int], nn.Module]] = {
    "as the policies are": AsItIs,
    "without what observations remember": lambda width: AsItIs(width, REMEMBERED),
    "with a GRU per machine": Recurrent,
}


def trained(name: str, seed: int, known: Histories, held_out: Histories, options: Options) -> tuple[float, Floats]:
    """What a student's moves lose in the lessons that it has learnt, and by scenario in those that it has not."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # before each, so that all begin with the same weights where they have the same
    student = STUDENTS[name](options.width)
    teach(student, known, options.epochs, seed)
    return float(loses(student, known).mean()), loses(student, held_out)


def told(values: Floats) -> str:
    """A mean with its 95 % interval, by bootstrap over scenarios."""
    again = values[np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    estimate = interval(float(values.mean()), again)
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} .. {estimate.high:+.4f})"


def main(options: Options) -> None:
    """Command line."""
    worlds = random_worlds(options.scenarios, 0, workers=options.workers)
    unseen = random_worlds(options.scenarios // 4, 0, "validation", options.workers)
    with worker_pool(options.workers) as pool:
        jobs = [pool.submit(histories, w, n, options.rounds, i) for i, (w, n) in enumerate(
            ((worlds, options.envs), (unseen, options.envs // 2))
        )]  # fmt: skip
        known, held_out = (job.result() for job in jobs)
        tasks = [(name, seed) for name in reversed(STUDENTS) for seed in range(options.seeds)]
        running = {task: pool.submit(trained, *task, known, held_out, options) for task in tasks}
        results = {task: running[task].result() for task in track(tasks, "students")}
    rows, plain = [], None
    for name in STUDENTS:
        own = [results[name, seed] for seed in range(options.seeds)]
        unknown = np.mean([by_scenario for _, by_scenario in own], axis=0)
        plain = unknown if plain is None else plain
        each = ", ".join(f"{by_scenario.mean():+.4f}" for _, by_scenario in own)
        learnt = f"{np.mean([mean for mean, _ in own]):+.4f}"
        rows.append((name, learnt, told(unknown), each, "" if unknown is plain else told(unknown - plain)))
    fixed = loses(None, held_out)
    rows.append(("`proven`, longest H", f"{loses(None, known).mean():+.4f}", told(fixed), "", told(fixed - plain)))
    lessons = int((~known.lost[:, :, 0].isnan()).sum())
    print(f"\n{lessons:,} lessons in {len(worlds)} scenarios; judged in {len(fixed)} others\n")
    columns = ("network", "its moves lose in what it learnt", "in unseen scenarios", "each training", "more than the first's")
    print(Grid("", columns, tuple(rows)).markdown())


if __name__ == "__main__":
    main(tyro.cli(Options))
