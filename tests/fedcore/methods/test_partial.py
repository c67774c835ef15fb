import pytest
import torch

from fedcore.context import CONTEXT_RULES
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS, FedAvg, IntraLayer
from fedcore.methods.partial import Partial, require_plain_sgd
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

NAMES = ("fedprox", "scaffold", "pfedme", "l-dawa", "fedbyol", "fedu", "fedema")


def plan(method, shares=(0.5, 0.0, 0.3)):
    model = build_model((1, 8, 8), "mlp", "simclr", {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
    samples = [Samples(torch.zeros(6, 1, 8, 8, dtype=torch.uint8)) for _ in shares]
    engine = InProcessEngine(samples, LocalRecipe(batch_size=4, precision="fp32"))
    return FederatedTraining(model, engine, "abc", lambda model, state: 1.0, None, method=method, seed=2).plan(shares)


def same(one, two) -> bool:
    if one is None or two is None:
        return one is two
    return all(torch.equal(one.trained[n], two.trained[n]) and torch.equal(one.context[n], two.context[n]) for n in one.trained)


def test_shares_say_who_takes_part_unless_blocks_are_asked_for():
    assert all(map(same, plan(Partial()), plan(FedAvg())))
    for unused in ({"context": 0.5}, {"rule": "rolling"}):
        with pytest.raises(InputError, match="which whole models have no use for; expected them left out, or partial=True"):
            Partial(**unused)
    blocks = plan(Partial(partial=True, context=0.5, rule="rolling"))
    assert all(map(same, blocks, plan(IntraLayer(context=0.5, rule="rolling"))))
    assert len(blocks[0].trained["fc1"]) == 6


def test_context_rules_that_measure_are_refused():
    measuring = [name for name, rule in CONTEXT_RULES.items() if rule.measures]
    assert measuring
    for rule in measuring:
        for name in NAMES:
            with pytest.raises(InputError, match=rf"context_rule is '{rule}', which .* expected .*random or random-unscaled$"):
                METHODS[name](partial=True, context=0.5, context_rule=rule)


@pytest.mark.parametrize("changed", [{"optimizer": "adamw"}, {"sgd_momentum": 0.9}, {"weight_decay": 1e-4}])
def test_plain_sgd(changed):
    plain = {"optimizer": "sgd", "sgd_momentum": 0.0, "weight_decay": 0.0}
    require_plain_sgd("x", "y", LocalRecipe(**plain))
    with pytest.raises(InputError, match=r"^x: optimizer is .* choose optimizer 'sgd' with both 0, which y$"):
        require_plain_sgd("x", "y", LocalRecipe(**(plain | changed)))


def test_all_are_registered_under_their_names():
    assert [METHODS[name].name for name in NAMES] == list(NAMES)
    assert all(issubclass(METHODS[name], Partial) for name in NAMES)
    assert len({METHODS[name] for name in NAMES}) == len(NAMES)
