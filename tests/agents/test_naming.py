"""Tables call agents by their own names, and never two by the same."""

from agents.naming import distinct, labels


def test_no_agent_is_shown_by_the_name_of_another() -> None:
    agents = ("my.py:fedavg", "fedavg", "a/policy.safetensors", "b/policy.safetensors", "my.py:decide")
    shown = labels(agents)
    assert shown["fedavg"] == "fedavg"
    assert shown["my.py:fedavg"] == "fedavg of my.py"
    # Their own names where nobody else has them.
    own = dict(zip(agents, ("fedavg", "fedavg", "ppo", "ppo", "decide"), strict=True))
    assert distinct(own) == shown | {"my.py:decide": "decide"}
    assert distinct({"my.py:fedavg": "fedavg", "runs/x/policy.safetensors": "ppo"}) == {
        "my.py:fedavg": "fedavg of my.py", "runs/x/policy.safetensors": "ppo"
    }  # fmt: skip


def test_names_for_tables_differ() -> None:
    agents = ("enough", "runs/x/policy.safetensors", "runs/y/policy.safetensors", "ppo.safetensors", "a/x.py:f", "b/x.py:f")
    assert list(labels(agents).values()) == ["enough", "x", "y", "ppo", "f", "f (2)"]
