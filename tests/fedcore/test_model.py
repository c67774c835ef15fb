import pickle

import pytest
import torch

from fedcore.blocks import whole_weights
from fedcore.encoders import ConvNet
from fedcore.model import Model, build_model
from fedcore.objectives import SimCLR

torch.set_num_threads(1)


@pytest.mark.parametrize("objective", ["simclr", "byol", "vicreg"])
def test_a_prefix_has_the_first_stages_and_the_same_objective_on_them(objective):
    options = {"widths": (6, 8, 10)}
    model = build_model((1, 12, 12), "convnet", objective, options, {"hidden": 7, "outputs": 5})
    shallow = pickle.loads(pickle.dumps(model)).prefix(2)
    same = build_model((1, 12, 12), "convnet", objective, {"widths": (6, 8), "strides": (2, 1)}, {"hidden": 7, "outputs": 5})
    assert shallow.neuron_map == same.neuron_map
    assert shallow.target_parameters == same.target_parameters
    assert model.prefix(3).neuron_map == model.neuron_map
    state = model.init_state(torch.Generator().manual_seed(0))
    x = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    features = shallow.encoder.features(whole_weights(state), x)
    assert torch.equal(features, same.encoder.features(whole_weights(state), x))


def test_an_encoder_without_layers_is_refused():
    with pytest.raises(ValueError, match="mlp has no layer"):
        build_model((1, 8, 8), "mlp", "simclr", {"widths": ()})


def test_a_model_that_nobody_can_rebuild_has_no_prefix():
    encoder = ConvNet((1, 12, 12))
    with pytest.raises(ValueError, match="build_model"):
        Model(encoder, SimCLR(encoder)).prefix(1)
    with pytest.raises(ValueError, match="depth is 4"):
        build_model((1, 12, 12), "convnet", "simclr").prefix(4)
