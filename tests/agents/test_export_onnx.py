"""The exported graph decides as the policy does."""

import numpy as np
import pytest
import torch

import scenarios
from agents.export_onnx import export_onnx
from agents.frozen import FrozenPolicy, PolicyCard
from agents.network import MenuNetwork
from agents.scaling import observation_digest, pattern_digest
from agents.vecenv import BatchedVecEnv
from envs.menu import menu_actions, menu_size
from fedcore.world import compile_world


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_equals_the_policy_on_batches_of_any_size(algorithm, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = MenuNetwork(menu_size(), 16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    policy = FrozenPolicy(network, PolicyCard(algorithm, 16, "x", 0, 1))
    export_onnx(policy, tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    told = session.get_modelmeta().custom_metadata_map
    assert (told["algorithm"], told["max_machines"]) == (algorithm, "16")
    assert [told[key] for key in ("observation_scaling", "pattern_constants")] == [observation_digest(), pattern_digest()]
    names = told["machine_features"].split(","), told["fleet_features"].split(",")
    assert session.get_inputs()[0].shape[1] == 16 * len(names[0]) + len(names[1])
    assert session.get_outputs()[0].shape[1] == len(told["patterns"].split(",")) * int(told["levels"])
    env = BatchedVecEnv([compile_world(scenarios.load(name)) for name in ("farm-lte", "phones")], 50, seed=0)
    rng = np.random.default_rng(0)
    observation = env.reset()
    for _ in range(5):
        for batch in (observation, observation[:1], observation[3:10]):
            (out,) = session.run(None, {"observation": batch})
            actions = menu_actions(out.argmax(axis=1), batch)
            assert np.allclose(actions, policy.decide_batch(batch), atol=1e-5)
        env.step_async(rng.uniform(-1, 1, (50, 17)).astype(np.float32))
        observation = env.step_wait()[0]
