import math

import pytest
import torch

from fedcore.augment import Augmentation
from fedcore.blocks import Block, slice_weights, whole_block, whole_weights
from fedcore.encoders import MLP
from fedcore.model import build_model
from fedcore.objectives import OBJECTIVES, NextToken
from fedcore.samples import Batch, Samples

torch.set_num_threads(1)

VOCABULARY, WINDOW = 7, 5


def tiny():
    model = build_model((VOCABULARY, WINDOW), "gpt", "next-token", {"dim": 8, "depth": 1, "heads": 2})
    generator = torch.Generator().manual_seed(0)
    state = model.init_state(generator)
    return model, state | {"unembedding.bias": torch.randn(VOCABULARY, generator=generator)}


def windows(n: int = 6) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (n, WINDOW + 1), generator=torch.Generator().manual_seed(1))


def test_it_is_registered():
    assert OBJECTIVES["next-token"] is NextToken


def test_the_loss_is_the_mean_surprise_of_every_next_token():
    model, state = tiny()
    features = model.encoder.features(whole_weights(state), windows()[:, :-1])
    total = 0.0
    for row, text in zip(features, windows(), strict=True):
        for t in range(WINDOW):
            logits = (state["unembedding.weight"] @ row[t] + state["unembedding.bias"]).double()
            total -= float(logits[text[t + 1]] - logits.exp().sum().log())
    loss = model.objective.loss(model.encoder.features, whole_weights(state), None, Batch((windows(),)))
    assert float(loss) == pytest.approx(total / (6 * WINDOW), rel=1e-5)


def test_rows_of_the_vocabulary_keep_their_places_when_cut():
    model, state = tiny()
    whole = whole_block(model.neuron_map)
    block = Block(
        whole.trained | {"unembedding": torch.tensor([1, 4])},
        whole.context | {"unembedding": torch.tensor([0, 2, 3, 5, 6])},
    )
    weights = slice_weights(state, model.neuron_map, block)
    batch = Batch((windows(),))
    loss = model.objective.loss(model.encoder.features, weights, None, batch)
    expected = model.objective.loss(model.encoder.features, whole_weights(state), None, batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert weights.trained["unembedding.weight"].grad.shape == (2, 8)


def test_a_fresh_model_is_near_chance():
    model, state = tiny()
    state["unembedding.bias"] = torch.zeros(VOCABULARY)
    loss = model.objective.loss(model.encoder.features, whole_weights(state), None, Batch((windows(),)))
    assert float(loss) == pytest.approx(math.log(VOCABULARY), abs=0.2)


def test_a_batch_is_the_chosen_windows():
    model, _ = tiny()
    chosen = torch.tensor([3, 0])
    batch = model.objective.draw(Samples(windows()), chosen, Augmentation(), torch.Generator())
    assert len(batch.views) == 1
    assert torch.equal(batch.views[0], windows()[chosen])
    assert batch.labels is None


def test_an_encoder_of_images_is_refused():
    with pytest.raises(ValueError, match="next-token got a MLP encoder, expected a GPT"):
        NextToken(MLP((1, 8, 8), (4,)))
    message = "encoder mlp reads images but objective next-token trains on tokens; expected an objective on images: byol, "
    with pytest.raises(ValueError, match=message):
        build_model((1, 8, 8), "mlp", "next-token")
    with pytest.raises(ValueError, match=r"encoder gpt reads tokens but objective simclr trains on images; .*: next-token"):
        build_model((9, 8), "gpt", "simclr")
