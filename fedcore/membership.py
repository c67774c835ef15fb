"""Does a trained encoder tell which images it was trained on? `python -m fedcore.membership`

Attack on self-supervised encoders after EncoderMI (Liu et al. 2021, its vector-free form): views of one image lie closer
together in feature space if the encoder was trained to pull them together. The score of an image is the mean cosine
similarity between features of its views; whoever owns the encoder and a candidate image can compute it.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.blocks import whole_weights
from fedcore.files import write_bytes, write_text
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.probes.features import to_tensor
from scenarios import InputError, load
from scenarios.errors import told
from scenarios.schema import Scenario

VIEWS = 10
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
FALSE_ALARMS = 0.05
HELD_OUT = 0.2
"""Part of every group of a person's own images that is not trained on."""


@dataclass(frozen=True)
class MembershipOptions:
    """How well images that an encoder was trained on can be told from others of the same sites.

    Attributes:
        scenario: whose fleet and workload are trained, a name or a YAML file.
        data: your images instead of the scenario's.
        rounds: that the scenario's reference policy plays.
        seed: of training and of the attack.
        output: folder of membership.json and membership.png.
    """

    scenario: str = "farm-lte"
    data: Path | None = None
    rounds: int = 36
    seed: int = 0
    output: Path = Path("runs/membership")


@dataclass(frozen=True)
class Attack:
    """What an attacker achieves.

    Attributes:
        auc: area under the ROC curve; 0.5 is guessing.
        low: of its bootstrap 95 % interval.
        high: of the same.
        caught: true positive rate at a false positive rate of `FALSE_ALARMS`, which counts for more (Carlini et al. 2022).
    """

    auc: float
    low: float
    high: float
    caught: float


@torch.inference_mode()
def view_similarity(model: Model, state: State, images: NDArray[np.uint8], generator: torch.Generator) -> NDArray[np.float64]:
    """Mean cosine similarity between features of `VIEWS` training-like views of every image.

    Args:
        model: encoder and objective.
        state: its weights.
        images: (N, H, W, C) uint8.
        generator: of the views.

    Returns:
        (N,), larger for images that the encoder knows well.
    """
    x, weights = normalise(to_tensor(images)), whole_weights(state)
    views = []
    for _ in range(VIEWS):
        parts = random_view(x, Augmentation(), generator).split(256)
        views.append(torch.cat([model.encoder.features(weights, part) for part in parts]))
    # Features are centred over all images, or their common part would hide what tells images apart.
    stacked = torch.stack(views)
    unit = torch.nn.functional.normalize(stacked - stacked.mean(dim=(0, 1)), dim=2)
    total = unit.sum(dim=0).square().sum(dim=1)
    return ((total - VIEWS) / (VIEWS * (VIEWS - 1))).double().numpy()


def attack(members: NDArray[np.float64], others: NDArray[np.float64], rng: np.random.Generator) -> Attack:
    """How well scores tell members from others.

    Args:
        members: (M,) scores of images that were trained on.
        others: (N,) of images that were not.
        rng: of the bootstrap.
    """
    from sklearn.metrics import roc_auc_score

    def auc(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), np.concatenate([a, b])))

    drawn = [auc(rng.choice(members, len(members)), rng.choice(others, len(others))) for _ in range(500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    caught = (members > np.quantile(others, 1 - FALSE_ALARMS)).mean()
    return Attack(auc(members, others), float(low), float(high), float(caught))


def membership(scenario: Scenario, data: Path | None, rounds: int, seed: int) -> dict[str, Scores]:
    """Train by the reference policy, attack before and after.

    Args:
        scenario: whose fleet and workload.
        data: images instead of the scenario's; where they have groups, a part of every group is held out.
        rounds: to train for.
        seed: of everything.

    Returns:
        By encoder ("untrained", "trained"): scores (M,) of members and (N,) of held-out images of the same sites.

    Raises:
        InputError: the workload trains on text, or there are too few held-out images.
    """
    from rich.progress import track

    from fedcore.data.catalogue import Catalogue
    from fedcore.data.holdout import hold_out_within
    from fedcore.data.loading import load_images
    from fedcore.workload import PreparedData, build_training, prepare_data

    dataset = None if data is None else load_images(str(data), size_px=scenario.workload.image_px)
    if dataset is not None and dataset.has_groups:
        # Probes hold out whole groups; an attacker would tell groups apart by that, not members from others.
        rows = Catalogue(len(dataset), labels=dataset.labels, group=dataset.group)
        dataset = replace(dataset, test=hold_out_within(rows, HELD_OUT, np.random.default_rng(seed)))
    prepared = prepare_data(scenario, dataset, seed)
    if not isinstance(prepared, PreparedData):
        raise InputError(f"scenario {scenario.name} trains on text, expected one that trains on images: the attack is on views")
    images, inside = prepared.dataset.images, np.unique(np.concatenate(prepared.clients))
    outside = np.flatnonzero(prepared.dataset.test)
    if len(outside) < 20:
        raise InputError(f"{len(outside)} images are held out, expected at least 20 to compare with")
    training = build_training(scenario, prepared, None, seed)
    states = {"untrained": training.state}
    shares = [scenario.reference.share] * len(training.machine_names)
    for _ in track(range(rounds), description="rounds"):
        training.play(shares, scenario.reference.sync_interval)
    states["trained"] = training.state
    found: dict[str, Scores] = {}
    for name, state in states.items():
        # One call for both, so that they are centred alike.
        scores = view_similarity(
            training.model, state, images[np.concatenate([inside, outside])], torch.Generator().manual_seed(seed)
        )
        found[name] = (scores[: len(inside)], scores[len(inside) :])
    return found


def draw(found: dict[str, Scores], title: str) -> bytes:
    """A PNG of the ROC curves."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for (name, (members, others)), colour in zip(found.items(), ("#999999", "#d55e00"), strict=True):
        wrong, right, _ = roc_curve(np.repeat([1, 0], [len(members), len(others)]), np.concatenate([members, others]))
        axes.plot(wrong, right, color=colour, label=f"{name} encoder")
    axes.plot([0, 1], [0, 1], color="#222222", linewidth=0.8, linestyle=":", label="guessing")
    axes.set(xlabel="other images taken for members", ylabel="members recognised", title=title)
    axes.legend(loc="lower right")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def main() -> None:
    """Command line."""
    import tyro

    with told("interrupted; nothing was written"):
        report(tyro.cli(MembershipOptions))


def report(options: MembershipOptions) -> None:
    """Train, attack, print and write what was found."""
    if options.rounds < 1:
        raise InputError(f"--rounds is {options.rounds}, expected at least 1")
    scenario = load(options.scenario)
    torch.set_num_threads(1)
    found = membership(scenario, options.data, options.rounds, options.seed)
    rng = np.random.default_rng(options.seed)
    results = {name: attack(members, others, rng) for name, (members, others) in found.items()}
    print(f"{'encoder':<10} {'members':>8} {'others':>7} {'AUC':>6}  95 % interval   caught at {FALSE_ALARMS:.0%} false alarms")
    for name, got in results.items():
        members, others = found[name]
        interval = f"{got.low:.3f} .. {got.high:.3f}"
        print(f"{name:<10} {len(members):>8} {len(others):>7} {got.auc:>6.3f}  {interval}  {got.caught:>8.3f}")
    what = options.data.name if options.data else scenario.workload.data
    write_text(options.output / "membership.json", json.dumps({name: vars(got) for name, got in results.items()}, indent=1))
    write_bytes(options.output / "membership.png", draw(found, f"{scenario.name} on {what}, {options.rounds} rounds"))
    print(f"plot and figures: {options.output}")


if __name__ == "__main__":
    main()
