"""Digests of code: what is imported counts, and nothing else."""

from agents.content import _source, code_of, imported


def test_imports_are_found_wherever_they_stand() -> None:
    text = "import envs.core\nfrom scenarios import load\ndef f():\n    from agents.base import Orchestrator\nimport numpy"
    assert imported(text) == {"envs.core", "scenarios", "scenarios.load", "agents.base", "agents.base.Orchestrator"}


def test_a_digest_follows_what_is_imported_and_nothing_else(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    real = {name: _source(name) for name in ("agents.heuristics.oort", "agents.heuristics.equal", "envs.patterns")}
    before = {name: code_of(f"agents.heuristics.{name}") for name in ("oort", "equal")}

    def changed(which: str) -> dict[str, str]:
        code_of.cache_clear()
        monkeypatch.setattr("agents.content._source", lambda m: (real.get(m) or _source(m) or "") + "# new" if m == which
                            else _source(m))  # fmt: skip
        return {name: code_of(f"agents.heuristics.{name}") for name in ("oort", "equal")}

    other = changed("agents.heuristics.oort")
    assert other["oort"] != before["oort"]
    assert other["equal"] == before["equal"]
    both = changed("envs.patterns")
    assert both["oort"] != before["oort"]
    assert both["equal"] != before["equal"]
    code_of.cache_clear()
