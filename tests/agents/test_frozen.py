import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import agents
import scenarios
from agents.frozen import FrozenPolicy, PolicyCard, freeze, load_policy, named_policies, newest_policy
from agents.network import MenuNetwork
from agents.recipes import DQNRecipe, PPORecipe, build, train
from agents.scaling import observation_digest, pattern_digest
from agents.vecenv import BatchedVecEnv
from envs.crews import WEIGHTS
from envs.menu import menu_actions, menu_size
from envs.observation import N_MACHINE
from envs.spaces import action_space
from fedcore.world import compile_world
from scenarios import InputError

PPO = PPORecipe(steps=512, num_envs=8, rollout=16, minibatch=64, epochs=2, width=16, warm=None)
DQN = DQNRecipe(steps=400, num_envs=4, buffer=500, batch=16, width=16, warm=None)


@pytest.fixture(scope="module")
def world():
    return compile_world(scenarios.load("farm-lte"))


@pytest.fixture(scope="module")
def observations(world):
    """10,000 observations of random episodes."""
    env = BatchedVecEnv([world], 250, seed=3)
    rng = np.random.default_rng(0)
    rows = [env.reset().copy()]
    while len(rows) < 40:
        env.step_async(rng.uniform(-1, 1, (250, 17)).astype(np.float32))
        rows.append(env.step_wait()[0].copy())
    return np.concatenate(rows)


def random_policy(algorithm: str) -> FrozenPolicy:
    torch.manual_seed(1)
    network = MenuNetwork(menu_size(), 16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return FrozenPolicy(network, PolicyCard(algorithm, 16, "farm-lte", 0, 1))


@pytest.mark.parametrize(("algorithm", "recipe"), [("ppo", PPO), ("dqn", DQN)])
def test_decisions_equal_the_live_policy(algorithm, recipe, world, observations, tmp_path):
    policy, curve = train(algorithm, [world], 0, tmp_path, recipe=recipe)
    freeze(policy, tmp_path / "p.safetensors")
    live = build(algorithm, [world], 0, None, recipe)
    live.policy.load_state_dict(torch.load(tmp_path / "best.pt")["policy"])
    frozen = load_policy(tmp_path / "p.safetensors").decide_batch(observations)
    moves = live.predict(observations, deterministic=True)[0]
    assert len(observations) == 10_000
    assert np.array_equal(frozen, menu_actions(moves, observations))
    assert curve
    assert curve[-1][0] >= recipe.steps - recipe.num_envs


def test_one_by_one_is_the_batch_and_copies_decide_alike(observations):
    """`decide` runs a traced network: traced on one fleet, for any, and not part of what is pickled."""
    policy = random_policy("ppo")
    other = BatchedVecEnv([compile_world(scenarios.load("scale-home-lines"))], 40, seed=3).reset()
    assert (other[:, : 16 * N_MACHINE : N_MACHINE].sum(axis=1) != observations[0, : 16 * N_MACHINE : N_MACHINE].sum()).all()
    for seen in (observations[::200], other):
        batch = policy.decide_batch(seen)
        for who in (policy, copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
            assert np.array_equal(np.stack([who.decide(one) for one in seen]), batch)


def test_training_is_deterministic_and_depends_on_the_seed(world, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        policy, _ = train("ppo", [world], seed, tmp_path / name, recipe=PPO)
        weights.append(torch.cat([p.flatten() for p in policy.network.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_interrupted_training_goes_on(world, tmp_path):
    train("ppo", [world], 0, tmp_path, steps=256, recipe=PPO)
    seen = []
    train("ppo", [world], 0, tmp_path, steps=512, on_step=lambda done, score: seen.append(done), recipe=PPO)
    assert seen
    assert min(seen) > 256


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_round_trip_and_legal_actions(algorithm, observations, tmp_path):
    policy = random_policy(algorithm)
    freeze(policy, tmp_path / "p.safetensors")
    loaded = load_policy(tmp_path / "p.safetensors")
    actions = loaded.decide_batch(observations[:200])
    assert np.array_equal(actions, policy.decide_batch(observations[:200]))
    assert all(action_space(16).contains(a) for a in actions)
    one_by_one = np.stack([loaded.decide(o) for o in observations[:200]])
    assert np.allclose(one_by_one, actions, atol=1e-5)
    assert replace(loaded.card, version="", digest="") == policy.card


def test_loads_without_stable_baselines3(tmp_path):
    freeze(random_policy("ppo"), tmp_path / "p.safetensors")
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from agents.frozen import load_policy\n"
        f"print(load_policy({str(tmp_path / 'p.safetensors')!r}).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ppo", done.stderr


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    freeze(random_policy("ppo"), path)
    content = path.read_bytes()
    for keep in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(InputError, match="damaged or cut short"):
            load_policy(path)


def test_a_changed_weight_is_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    freeze(random_policy("ppo"), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        load_policy(path)


def test_a_policy_for_other_spaces_is_refused(tmp_path):
    policy = random_policy("ppo")
    spaces = {**policy.card.spaces, "machine_features": ["other"]}
    freeze(FrozenPolicy(policy.network, replace(policy.card, spaces=spaces)), tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="other spaces"):
        load_policy(tmp_path / "p.safetensors")


def test_a_policy_of_an_older_format_is_refused_in_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    with monkeypatch.context() as m:
        m.setattr("agents.frozen.FORMAT", 2)
        freeze(random_policy("ppo"), path)
    with pytest.raises(InputError, match="is of format 2: expected format 4; train it again") as told:
        load_policy(path)
    assert "\n" not in str(told.value)


def rewritten(path: Path, weights=None, **fields) -> None:
    """A policy file whose card, or weights, somebody changed."""
    with safe_open(str(path), framework="pt") as file:
        card = json.loads(file.metadata()["intrafed"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    save_file(weights or kept, path, {"intrafed": json.dumps(card | fields)})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"spaces": []}, r"its card's spaces is \[\], expected an object"),
        ({"spaces": None}, "its card's spaces is None, expected an object"),
        ({"width": "x"}, "its card's width is 'x', expected a whole number"),
        ({"width": True}, "its card's width is True, expected a whole number"),
        ({"width": -1}, "its card's width is -1, expected 1 to 4096"),
        ({"width": 200_000}, "its card's width is 200000, expected 1 to 4096"),
        ({"width": 10**400}, "its card's width is a number of many digits, expected 1 to 4096"),
        ({"seed": "x"}, "its card's seed is 'x', expected a whole number"),
        ({"scenario": None}, "its card's scenario is None, expected text"),
        ({"evaluation": "x"}, "its card's evaluation is 'x', expected an object"),
        ({"versions": [1]}, r"its card's versions is \[1\], expected an object"),
        ({"algorithm": "a2c"}, "its card's algorithm is 'a2c', expected ppo or dqn"),
        ({"format": float("inf")}, "has no intrafed card"),
        ({"format": None}, "has no intrafed card"),
        ({"colour": "red"}, "has no intrafed card"),
    ],
)
def test_an_odd_card_is_refused_in_one_sentence(tmp_path, fields, sentence):
    path = tmp_path / "p.safetensors"
    freeze(random_policy("ppo"), path)
    rewritten(path, **fields)
    with pytest.raises(InputError, match=sentence) as told:
        load_policy(path)
    assert "\n" not in str(told.value)


def test_a_card_of_bottomless_depth_is_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    save_file({"x": torch.zeros(3)}, path, {"intrafed": "[" * 100_000})
    with pytest.raises(InputError, match="has no intrafed card"):
        load_policy(path)


@pytest.mark.parametrize("fields", [{"algorithm": "dqn"}, {"evaluation": {}}, {"version": "9.9"}, {"ranges": {"x": 1}}])
def test_a_changed_card_is_refused_as_changed_weights_are(tmp_path, fields):
    path = tmp_path / "p.safetensors"
    freeze(trial := random_policy("ppo"), path)
    freeze(FrozenPolicy(trial.network, replace(trial.card, evaluation={"iqm": [1.5, float("nan")], "runs": {3: "x"}})), path)
    load_policy(path)
    rewritten(path, **fields)
    with pytest.raises(InputError, match="does not match its own checksum"):
        load_policy(path)


@pytest.mark.parametrize("key", ["observation_scaling", "pattern_constants"])
def test_a_policy_whose_numbers_were_scaled_otherwise_is_refused(tmp_path, key):
    policy = random_policy("ppo")
    spaces = {**policy.card.spaces, key: "0123456789abcdef"}
    freeze(FrozenPolicy(policy.network, replace(policy.card, spaces=spaces)), tmp_path / "p.safetensors")
    with pytest.raises(InputError, match=rf"its {key}: 0123456789abcdef\): expected {policy.card.spaces[key]}; train it again"):
        load_policy(tmp_path / "p.safetensors")


def test_what_numbers_are_scaled_by_has_a_name_of_its_own(monkeypatch):
    before = observation_digest(), pattern_digest()
    observation_digest.cache_clear()
    pattern_digest.cache_clear()
    try:
        monkeypatch.setattr("envs.observation.TEACHES_ALL", 2.0)
        monkeypatch.setitem(WEIGHTS, "proven", (0.0, 0.0, 0.0, 1.6))
        assert observation_digest() != before[0]
        assert pattern_digest() != before[1]
    finally:
        monkeypatch.undo()
        observation_digest.cache_clear()
        pattern_digest.cache_clear()
    assert (observation_digest(), pattern_digest()) == before


def test_weights_that_do_not_fit_or_are_no_numbers_are_told_by_name(tmp_path):
    path = tmp_path / "p.safetensors"
    policy = random_policy("ppo")
    freeze(FrozenPolicy(policy.network, replace(policy.card, width=8)), path)
    with pytest.raises(InputError, match=r"does not fit its network: encoder.fleet.weight is \(16, 24\), expected \(8, 24\)"):
        load_policy(path)
    with torch.no_grad():
        policy.network.head[0].bias[2] = float("nan")
    freeze(policy, path)
    with pytest.raises(InputError, match=r"head.0.bias has NaN or infinite weights, expected finite ones"):
        load_policy(path)
    policy.network.head[0].register_parameter("bias", None)
    freeze(policy, path)
    with pytest.raises(InputError, match=r"head.0.bias is missing, expected \(16,\)"):
        load_policy(path)


def test_halved_weights_and_a_folder_are_refused(tmp_path):
    path = tmp_path / "p.safetensors"
    freeze(random_policy("ppo"), path)
    rewritten(path, {name: weight.bfloat16() for name, weight in random_policy("ppo").network.state_dict().items()})
    with pytest.raises(InputError, match="does not match its own checksum"):
        load_policy(path)
    with pytest.raises(InputError, match="is no file"):
        load_policy(tmp_path)


def test_a_stranger_safetensors_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(3)}, tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="no intrafed card"):
        load_policy(tmp_path / "p.safetensors")


@pytest.mark.parametrize("name", named_policies())
def test_policies_that_come_with_the_package_load_by_name(name, observations):
    policy = agents.load(name)
    assert policy.name == name
    assert policy.card.scenario == "random"
    assert policy.card.ranges["machines"]
    assert len(policy.card.curve) == 64
    assert all(action_space(16).contains(a) for a in policy.decide_batch(observations[:50]))


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"policy ppo.*: observation has shape \(10,\), expected \(\d+ K_max \+ \d+,\)"):
        load_policy("ppo-default").decide(np.zeros(10))


def test_both_defaults_are_there_and_an_unknown_name_is_refused():
    assert {"ppo-default", "dqn-default"} <= set(named_policies())
    with pytest.raises(InputError, match=r"dqn-default, ppo-default"):
        agents.load("ppo-defalt")


def test_newest_policy(tmp_path):
    assert newest_policy(tmp_path) is None
    for name in ("old", "new"):
        freeze(random_policy("ppo"), tmp_path / name / "policy.safetensors")
    import os

    os.utime(tmp_path / "old" / "policy.safetensors", (1, 1))
    assert newest_policy(tmp_path) == Path(tmp_path / "new" / "policy.safetensors")


def test_network_rates_moves_alike_in_whatever_order_machines_come(observations):
    from envs.observation import N_MACHINE

    network = random_policy("ppo").network
    x = torch.from_numpy(observations[:50])
    order = torch.tensor([3, 0, 5, 1, 4, 2, *range(6, 16)])
    body = x[:, : 16 * N_MACHINE].view(50, 16, N_MACHINE)
    shuffled = torch.cat([body[:, order].reshape(50, -1), x[:, 16 * N_MACHINE :]], dim=1)
    with torch.inference_mode():
        plain, moved = network(x), network(shuffled)
    assert plain.std(dim=0).min() > 0.0
    assert torch.allclose(moved, plain, atol=1e-4)


def test_padding_may_lie_anywhere_between_machines(observations):
    network = random_policy("ppo").network
    x = torch.from_numpy(observations[:50])
    body = x[:, : 16 * N_MACHINE].view(50, 16, N_MACHINE)
    machines = int((body[:, :, 0] > 0.5).any(dim=0).sum())
    places = torch.tensor([1, 4, 5, 9, 12, 15][:machines])
    apart = torch.zeros_like(body)
    apart[:, places] = body[:, :machines]
    moved = torch.cat([apart.reshape(50, -1), x[:, 16 * N_MACHINE :]], dim=1)
    with torch.inference_mode():
        assert machines == len(places) == 6
        assert torch.allclose(network(moved), network(x), atol=1e-4)
        nobody = network(torch.cat([torch.zeros(50, 16 * N_MACHINE), x[:, 16 * N_MACHINE :]], dim=1))
    assert nobody.isfinite().all()


def test_policy_serves_larger_fleets_unchanged():
    network = random_policy("ppo").network
    policy = FrozenPolicy(network, PolicyCard("ppo", 16, "x", 0, 1))
    fleet = scenarios.load("farm-lte")
    groups = [g.model_copy(update={"count": 20}) for g in fleet.fleet.groups]
    big = fleet.model_copy(update={"fleet": fleet.fleet.model_copy(update={"groups": tuple(groups)})})
    from envs.orchestration import OrchestrationEnv

    env = OrchestrationEnv(big, max_machines=64)
    observation, _ = env.reset(seed=0)
    assert env.action_space.contains(policy.decide(observation))
