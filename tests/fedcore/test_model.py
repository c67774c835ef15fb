import pickle

import pytest
import torch

from fedcore.blocks import whole_weights
from fedcore.encoders import ENCODERS, ConvNet
from fedcore.model import Model, build_model
from fedcore.neurons import NeuronMap, Parameter
from fedcore.objectives import SimCLR
from fedcore.workload import model_for
from scenarios.errors import InputError
from scenarios.schema import Workload

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


@pytest.mark.parametrize(
    ("encoder", "objective", "encoder_options", "objective_options", "words"),
    [
        ("convnet", "simclr", {"widths": [8, 8, 8.5]}, {}, r"encoder convnet: widths is \[8, 8, 8\.5\]: .*integer"),
        ("convnet", "simclr", {"first_kernel": 5.0}, {}, r"first_kernel is 5\.0: .*integer"),
        ("resnet", "simclr", {"whole_stream": "no"}, {}, r"whole_stream is 'no': .*boolean"),
        ("convnet", "simclr", {}, {"hidden": True}, r"objective simclr: hidden is True: .*integer"),
        ("convnet", "simclr", {}, {"temperature": float("inf")}, r"temperature is inf: .*finite"),
        ("convnet", "vicreg", {}, {"invariance": "x"}, r"invariance is 'x': .*number"),
    ],
)
def test_an_option_of_another_kind_is_refused_before_anything_is_built(
    encoder, objective, encoder_options, objective_options, words
):
    with pytest.raises(TypeError, match=words):
        build_model((1, 16, 16), encoder, objective, encoder_options, objective_options)


def test_whole_numbers_pass_for_numbers_and_lists_for_sequences():
    build_model((1, 16, 16), "convnet", "vicreg", {"widths": [6, 8, 8]}, {"invariance": 25})


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"norm_layer": "BatchNorm2d"}, {"batch_norm": True}, {"use_bn": True}])
@pytest.mark.parametrize("encoder", ["convnet", "mlp", "resnet"])
def test_batch_norm_is_refused_in_one_sentence_that_says_what_to_choose(encoder, options):
    words = rf"^encoder {encoder}: .* its statistics would be of neurons that a partial block does not see; choose group"
    with pytest.raises(ValueError, match=words):
        build_model((1, 16, 16), encoder, "simclr", options)
    with pytest.raises(InputError, match=r"workload does not build: .* choose group or layer norm$"):
        model_for(Workload(encoder=encoder, encoder_options=options), 1)


def test_other_options_are_not_taken_for_batch_norm():
    for options in ({"norm": "group"}, {"batch_norm": False}, {"batch": 3}):
        with pytest.raises(TypeError, match="takes no option"):
            build_model((1, 16, 16), "convnet", "simclr", options)


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_an_encoder_that_declares_running_statistics_is_refused(monkeypatch, statistic):
    class Running(ConvNet):
        def __init__(self, input_shape, width=8):
            super().__init__(input_shape)
            layer = self.neuron_map.layers[0]
            own = Parameter(f"{layer.name}.{statistic}", (layer.neurons,), layer.name)
            self.neuron_map = NeuronMap(self.neuron_map.layers, (*self.neuron_map.parameters, own))

    monkeypatch.setitem(ENCODERS, "running", Running)
    with pytest.raises(ValueError, match=rf"^encoder running declares conv1\.{statistic}, .* choose group or layer norm$"):
        build_model((1, 16, 16), "running", "simclr")
