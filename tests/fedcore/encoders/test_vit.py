import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcore.blocks import whole_weights
from fedcore.encoders import ENCODERS, ViT
from fedcore.reference import bare_scenario
from fedcore.workload import build_training, prepare_data
from scenarios.schema import Workload

torch.set_num_threads(1)


def stirred(encoder: ViT, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights with vectors apart from 0 and 1, so that nothing left out goes unseen."""
    generator = torch.Generator().manual_seed(seed)
    state = encoder.init_state(generator)
    return {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in state.items()}


def plain_block(state: dict[str, torch.Tensor], i: int) -> nn.TransformerEncoderLayer:
    """torch's own pre-norm block with the same weights."""
    heads, _, dim = state[f"heads{i}.qkv"].shape
    units = len(state[f"units{i}.weight"])
    block = nn.TransformerEncoderLayer(dim, heads, units, 0.0, F.gelu, batch_first=True, norm_first=True)
    named = {
        # torch stacks all queries, then all keys, then all values; here every head has its own three.
        "self_attn.in_proj_weight": state[f"heads{i}.qkv"].unflatten(1, (3, -1)).transpose(0, 1).reshape(3 * dim, dim),
        "self_attn.in_proj_bias": torch.zeros(3 * dim),
        "self_attn.out_proj.weight": state[f"heads{i}.out"].reshape(dim, dim).T,
        "self_attn.out_proj.bias": state[f"stream{i}.heads.bias"],
        "linear1.weight": state[f"units{i}.weight"],
        "linear1.bias": state[f"units{i}.bias"],
        "linear2.weight": state[f"units{i}.out"].T,
        "linear2.bias": state[f"stream{i}.units.bias"],
    }
    for k in (1, 2):
        named |= {f"norm{k}.weight": state[f"stream{i}.norm{k}.gain"], f"norm{k}.bias": state[f"stream{i}.norm{k}.bias"]}
    block.load_state_dict(named)
    return block.train()  # the fast path of eval mode is another implementation


def test_it_is_registered():
    assert ENCODERS["vit"] is ViT
    assert ViT.reads == "images"


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 16, 16), {"dim": 12, "depth": 2, "heads": 3, "units": 10}),
        ((3, 8, 16), {"dim": 8, "depth": 3, "heads": 2, "patch": 4}),
        ((3, 6, 6), {"dim": 6, "depth": 1, "heads": 1, "patch": 2}),
    ],
)
def test_features_are_those_of_plain_modules(shape, options):
    encoder = ViT(shape, **options)
    state = stirred(encoder)
    patch, dim = encoder.patch, options["dim"]
    embed = nn.Conv2d(shape[0], dim, patch, patch, bias=False)
    embed.weight.data = state["stream1.patches"].view(dim, shape[0], patch, patch)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    x = embed(images).flatten(2).transpose(1, 2) + state["stream1.positions"].T
    for i in range(1, options["depth"] + 1):
        x = plain_block(state, i)(x)
    expected = nn.LayerNorm(dim, elementwise_affine=False)(x).mean(1)
    torch.testing.assert_close(encoder.features(whole_weights(state), images), expected, atol=1e-5, rtol=1e-4)
    assert expected.std() > 0.1
    assert encoder.feature_dim == dim
    assert encoder.feature_columns is None


def test_a_smaller_crop_takes_interpolated_positions():
    large, small = (ViT((1, side, side), dim=8, depth=1, heads=2) for side in (16, 8))
    state = stirred(large)
    assert large.takes(8, 12)
    assert not large.takes(10, 16)
    crop = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    # A ramp over the grid, interpolated, is the ramp at the centres of the larger cells.
    ramp = torch.arange(4.0)
    state["stream1.positions"] = (ramp[:, None] + 10 * ramp[None, :]).expand(8, 4, 4).flatten(1)
    coarse = torch.tensor([0.5, 2.5])
    own = state | {"stream1.positions": (coarse[:, None] + 10 * coarse[None, :]).expand(8, 2, 2).flatten(1)}
    got = large.embed(whole_weights(state), crop)
    expected = small.embed(whole_weights(own), crop)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    features = [encoder.features(whole_weights(w), crop) for encoder, w in ((large, state), (small, own))]
    torch.testing.assert_close(*features, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, "images of 16x16 are not made of whole patches of side 5"),
        ({"patch": 0}, "whole patches of side 0"),
        ({"dim": 10, "heads": 4}, "dim is 10, expected a multiple of the 4 heads"),
        ({"depth": 0}, "depth is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"units": 0}, "units is 0"),
        ({"head_dim": 0}, "head_dim is 0"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ViT((1, 16, 16), **options)


def test_half_shares_learn_to_tell_images_apart():
    options = {"dim": 16, "depth": 2, "heads": 4}
    workload = Workload(image_px=16, encoder="vit", encoder_options=options, batch_size=16, precision="fp32")
    scenario = bare_scenario(2, workload, images=60)
    training = build_training(scenario, prepare_data(scenario), None, seed=0)
    for _ in range(6):
        report = training.play([0.5, 0.5], 10)
    assert report.refused == ()
    assert not report.collapsed
    assert report.infonce < training.untrained - 0.15
