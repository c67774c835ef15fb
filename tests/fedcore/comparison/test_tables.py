import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.comparison.tables import (
    BUDGETS,
    at_budget,
    cells,
    cost_to,
    csv_text,
    foretold,
    markdown,
    row_of,
    spent_part,
    target_of,
)


def run(infonce, quality, per_round=(2.0, 3.0, 10.0), budget=1.0, every=2, memory=(5e6, 1e6), weakest=1):
    """A run whose costs grow in proportion to its rounds; the budget is that part of what it spends."""
    points = [
        {
            "round": every * i, "infonce": v, "quality": q, "upload_bytes": 4.0 * every * i,
            **{name: c * every * i for name, c in zip(BUDGETS, per_round, strict=True)},
        }
        for i, (v, q) in enumerate(zip(infonce, quality, strict=True))
    ]  # fmt: skip
    budgets = {name: budget * points[-1][name] for name in BUDGETS}
    return {"checkpoints": points, "budgets": budgets, "memory_bytes": list(memory), "weakest": weakest}


def test_quality_at_a_budget_is_linear_between_checkpoints_and_flat_after_the_end():
    r = run([5.0, 4.0, 3.0], [0.1, 0.3, 0.4], budget=0.75)
    assert at_budget(r, "time_s", "quality") == pytest.approx(0.35)
    assert spent_part(r, "time_s") == 1.0
    r = run([5.0, 4.0, 3.0], [0.1, 0.3, 0.4], budget=2.0)
    assert at_budget(r, "energy_j", "quality") == 0.4
    assert spent_part(r, "energy_j") == 0.5


def test_costs_to_a_target_by_hand():
    r = run([5.0, 4.0, 3.0], [0, 0, 0])
    assert cost_to(r, 4.5, "time_s") == pytest.approx(2.0)  # half way through the first two rounds of 2 s
    assert cost_to(r, 3.0, "bytes") == pytest.approx(40.0)
    assert cost_to(r, 2.9, "bytes") == np.inf
    assert cost_to(r, 6.0, "bytes") == 0.0
    bouncing = run([5.0, 3.5, 4.5, 3.0], [0, 0, 0, 0])
    assert cost_to(bouncing, 4.0, "time_s") == pytest.approx(4 * (5.0 - 4.0) / 1.5)  # the first time counts


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8), st.floats(0, 10))
def test_a_harder_target_never_costs_less(values, target):
    r = run(values, values)
    assert cost_to(r, target, "time_s") >= cost_to(r, target + 0.5, "time_s")


def test_the_target_is_the_references_at_three_quarters_of_its_rounds():
    runs = [run([5, 4, 3, 2, 1], [0] * 5), run([5, 5, 5, 4, 4], [0] * 5)]
    assert target_of(runs) == pytest.approx((2 + 4) / 2)


def test_the_table_tells_ratios_to_the_first_row_and_who_never_got_there():
    reference = [run([5, 4, 3], [0.1, 0.2, 0.3]), run([5, 4, 3], [0.1, 0.2, 0.4])]
    cheap = [run([5, 4, 3], [0.1, 0.2, 0.2], per_round=(1.0, 3.0, 2.5)) for _ in range(2)]
    for r in cheap:
        r["budgets"] = reference[0]["budgets"]
    lost = [run([5, 5, 5], [0.1, 0.1, 0.1]), run([5, 4, 3], [0.1, 0.1, 0.1], memory=(1.0, 0.0))]
    rows = [row_of(name, runs, 3.5) for name, runs in (("fedavg", reference), ("cheap", cheap), ("lost", lost))]
    table = cells(rows, "R2")
    assert table[0][1] == "R2 at equal time"
    assert table[1][4:8] == ["1.00", "1.00", "1.00", "1.00"]
    assert table[2][4:8] == ["0.50", "1.00", "0.25", "1.00"]
    assert table[1][1] == "0.350 [0.300, 0.400]"
    assert table[2][1] == "0.200 [0.200, 0.200] (50% spent)"
    assert table[2][3] == "0.200 [0.200, 0.200] (25% spent)"
    assert table[3][4] == "1.00 (1 of 2 runs)"
    assert table[1][8] == "1.00"
    assert rows[2].memory_bytes == 1e6
    mixed = [run([5, 4, 3], [0, 0, 0], per_round=(c, 3.0, 10.0)) for c in (1.0, 8.0)]  # a half and four times: mean 1.41
    assert cells([rows[0], row_of("mixed", mixed, 3.5)], "R2")[2][4] == "1.41"
    text = markdown(table).splitlines()
    assert len(text) == 5
    assert text[1] == "|" + "---|" * 9


def test_the_csv_holds_every_checkpoint():
    text = csv_text({"a": [run([5, 4], [0.1, 0.2])], "b": [run([5, 4, 3], [0.1, 0.2, 0.3])]})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["method"], r["round"]) for r in rows] == [("a", "0"), ("a", "2"), ("b", "0"), ("b", "2"), ("b", "4")]
    assert float(rows[4]["bytes"]) == 40.0


def test_a_signal_that_moves_with_the_quality_foretells_it():
    curves = {"a": ([5, 4, 3, 2], [0.1, 0.2, 0.3, 0.4]), "b": ([5, 4.5, 4, 1], [0.1, 0.15, 0.2, 0.5]), "c": ([5], [0.1])}
    runs = {name: [run(*curve)] for name, curve in curves.items()}
    for group in runs.values():
        for r in group:
            for i, point in enumerate(r["checkpoints"]):
                point["uniformity"] = float(i)  # less is better, so this one tells the opposite
    table = foretold(runs)
    assert [line[0] for line in table[1:]] == ["infonce", "uniformity"]
    assert table[1][1].startswith("1.00 ")
    assert table[2][1].startswith("-1.00 ")


def test_a_reference_that_starts_at_the_target_or_never_gets_there_breaks_no_table():
    reference = [run([5, 5, 5], [0, 0, 0]), run([3, 3, 3], [0, 0, 0])]
    other = [run([5, 4, 3], [0, 0, 0]), run([5, 5, 3], [0, 0, 0])]
    rows = [row_of(name, runs, 4.0) for name, runs in (("fedavg", reference), ("other", other))]
    table = cells(rows, "R2")
    assert table[1][4] == "reached (1 of 2 runs)"
    assert table[2][4] == "reached (2 of 2 runs)"
