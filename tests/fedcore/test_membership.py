import numpy as np
import pytest
import torch

from fedcore.membership import VIEWS, attack, draw, membership, view_similarity
from scenarios import InputError, load

torch.set_num_threads(1)


def test_scores_that_say_nothing_are_guessing_and_perfect_ones_are_found():
    rng = np.random.default_rng(0)
    nothing = attack(rng.normal(size=400), rng.normal(size=400), np.random.default_rng(1))
    assert nothing.low < 0.5 < nothing.high
    assert nothing.caught == pytest.approx(0.05, abs=0.04)
    perfect = attack(np.arange(10.0, 20.0), np.arange(10.0), np.random.default_rng(1))
    assert (perfect.auc, perfect.low, perfect.high, perfect.caught) == (1.0, 1.0, 1.0, 1.0)


def test_the_area_is_the_chance_that_a_member_scores_higher():
    members, others = np.array([0.9, 0.4, 0.4]), np.array([0.5, 0.4])
    higher = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert attack(members, others, np.random.default_rng(0)).auc == pytest.approx(np.mean(higher))


def test_similarity_is_the_mean_cosine_of_all_pairs_of_views():
    class Fixed:
        """Features of view v are the rows of a table, whatever the image."""

        def __init__(self, table):
            self.table, self.calls = table, 0

        def features(self, weights, x):
            self.calls += 1
            return self.table[self.calls - 1]

    table = torch.randn(VIEWS, 5, 7, generator=torch.Generator().manual_seed(0))
    model = type("M", (), {"encoder": Fixed(table)})()
    got = view_similarity(model, {}, np.zeros((5, 8, 8, 1), dtype=np.uint8), torch.Generator().manual_seed(0))
    centred = (table - table.mean(dim=(0, 1))).numpy()
    unit = centred / np.linalg.norm(centred, axis=2, keepdims=True)
    pairs = [(unit[i] * unit[j]).sum(axis=1) for i in range(VIEWS) for j in range(VIEWS) if i != j]
    assert got == pytest.approx(np.mean(pairs, axis=0), abs=1e-5)


def test_an_encoder_that_memorised_its_images_gives_them_away():
    class Memory:
        """Views of the first half look alike to it, those of the second half do not."""

        def __init__(self):
            self.noise = torch.Generator().manual_seed(1)
            self.known = torch.randn(80, 16, generator=self.noise)

        def features(self, weights, x):
            blur = torch.cat([torch.full((40, 1), 0.3), torch.full((40, 1), 1.0)])
            return self.known + blur * torch.randn(80, 16, generator=self.noise)

    model = type("M", (), {"encoder": Memory()})()
    scores = view_similarity(model, {}, np.zeros((80, 8, 8, 1), dtype=np.uint8), torch.Generator().manual_seed(0))
    assert attack(scores[:40], scores[40:], np.random.default_rng(0)).low > 0.9


def test_training_is_attacked_before_and_after(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path))
    scenario = load("farm-lte")
    groups = tuple(g.model_copy(update={"images": 32, "count": 1}) for g in scenario.fleet.groups)
    scenario = scenario.model_copy(update={"fleet": scenario.fleet.model_copy(update={"groups": groups})})
    found = membership(scenario, None, 1, 0)
    assert list(found) == ["untrained", "trained"]
    assert all(len(members) == 64 and len(others) >= 20 for members, others in found.values())
    assert not np.array_equal(found["untrained"][0], found["trained"][0])
    assert draw(found, "t").startswith(b"\x89PNG")


def test_of_data_with_groups_others_are_of_the_same_groups_as_members(tmp_path, monkeypatch):
    scenario, seen = load("farm-lte"), []
    groups = tuple(g.model_copy(update={"images": 32, "count": 1}) for g in scenario.fleet.groups)
    scenario = scenario.model_copy(update={"fleet": scenario.fleet.model_copy(update={"groups": groups})})
    group = np.repeat(np.arange(5), 30)
    images = np.broadcast_to((50 * group).astype(np.uint8)[:, None, None], (150, 32, 32))  # a grey of its own for each
    np.savez(tmp_path / "own.npz", x=images, group=group)

    def spy(model, state, images, generator):
        seen.append(images[:, 0, 0, 0] // 50)
        return np.zeros(len(images))

    monkeypatch.setattr("fedcore.membership.view_similarity", spy)
    members, others = membership(scenario, tmp_path / "own.npz", 1, 0)["trained"]
    assert len(others) == 30
    assert set(seen[0][: len(members)]) <= set(range(5))
    assert sorted(seen[0][len(members) :]) == sorted(np.repeat(np.arange(5), 6))


def test_text_has_no_views():
    with pytest.raises(InputError, match="trains on text"):
        membership(load("phones"), None, 1, 0)
