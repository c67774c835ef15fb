import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcore.blocks import whole_weights
from fedcore.encoders import ENCODERS, GPT

torch.set_num_threads(1)

VOCABULARY, WINDOW = 11, 9


def stirred(encoder: GPT) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in encoder.init_state(generator).items()}


def tokens(n: int = 4, length: int = WINDOW) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(3))


def plain_attention(qkv: torch.Tensor, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Causal attention written out, head by head and position by position."""
    added = torch.zeros_like(x)
    for head in range(len(qkv)):
        q, k, v = (x @ w.T for w in qkv[head].chunk(3))
        for t in range(x.shape[1]):
            scores = (q[:, t, None] * k[:, : t + 1]).sum(-1) / q.shape[-1] ** 0.5
            added[:, t] += (scores.softmax(-1)[..., None] * v[:, : t + 1]).sum(1) @ out[head]
    return added


def test_it_is_registered():
    assert ENCODERS["gpt"] is GPT
    assert GPT.reads == "tokens"
    assert not GPT((VOCABULARY, WINDOW), dim=4, heads=1).takes(32, 32)


@pytest.mark.parametrize("options", [{"dim": 12, "depth": 2, "heads": 3}, {"dim": 8, "depth": 1, "heads": 3, "head_dim": 5}])
def test_features_are_those_of_a_plain_network(options):
    encoder = GPT((VOCABULARY, WINDOW), units=7, **options)
    state = stirred(encoder)
    x = nn.Embedding.from_pretrained(state["stream1.tokens"].T)(tokens()) + state["stream1.positions"].T

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.gain"], state[f"{name}.bias"])

    for i in range(1, options["depth"] + 1):
        x = x + plain_attention(state[f"heads{i}.qkv"], state[f"heads{i}.out"], norm(f"stream{i}.norm1", x))
        x = x + state[f"stream{i}.heads.bias"]
        hidden = F.gelu(F.linear(norm(f"stream{i}.norm2", x), state[f"units{i}.weight"], state[f"units{i}.bias"]))
        x = x + hidden @ state[f"units{i}.out"] + state[f"stream{i}.units.bias"]
    expected = F.layer_norm(x, x.shape[-1:])
    torch.testing.assert_close(encoder.features(whole_weights(state), tokens()), expected, atol=1e-5, rtol=1e-4)
    assert expected.shape == (4, WINDOW, options["dim"])


@pytest.mark.parametrize("place", [0, 4, WINDOW - 1])
def test_nothing_depends_on_what_comes_later(place):
    encoder = GPT((VOCABULARY, WINDOW), dim=12, depth=3, heads=2)
    weights = whole_weights(stirred(encoder))
    before, changed = tokens(), tokens()
    changed[:, place] = (changed[:, place] + 1) % VOCABULARY
    moved = (encoder.features(weights, before) - encoder.features(weights, changed)).abs().amax(dim=(0, 2))
    assert (moved[:place] < 1e-6).all()
    assert (moved[place:] > 1e-4).all()


def test_fewer_tokens_than_the_window_are_the_start_of_a_longer_text():
    encoder = GPT((VOCABULARY, WINDOW), dim=8, depth=2, heads=2)
    weights = whole_weights(stirred(encoder))
    whole = encoder.features(weights, tokens())
    torch.testing.assert_close(encoder.features(weights, tokens()[:, :5]), whole[:, :5], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="got 10 tokens per sample, expected at most the window of 9"):
        encoder.features(weights, tokens(length=10))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_vocabulary_or_window_is_refused(shape):
    with pytest.raises(ValueError, match="text_shape is"):
        GPT(shape)
