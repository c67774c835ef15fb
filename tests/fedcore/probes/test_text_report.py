"""Figures of a language model on held-out windows, by hand and against the progress signal."""

import json

import numpy as np
import pytest
import torch

from fedcore.model import build_model
from fedcore.probes import HeldOutLoss
from fedcore.probes.text_report import TextReport, by_window, text_report

torch.set_num_threads(1)

MODEL = build_model((6, 4), "gpt", "next-token", {"dim": 8, "depth": 1, "heads": 2})
STATE = MODEL.init_state(torch.Generator().manual_seed(0))


def windows(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 6, (n, 5))


def test_the_loss_is_the_progress_signals_and_comes_window_by_window():
    nats, accuracy = by_window(MODEL, STATE, windows(150))
    assert nats.shape == accuracy.shape == (150,)
    assert nats.mean() == pytest.approx(HeldOutLoss(windows(150), 6)(MODEL, STATE), rel=1e-6)
    one, _ = by_window(MODEL, STATE, windows(150)[70:71])
    assert one[0] == pytest.approx(nats[70], rel=1e-5)


def test_a_model_that_always_says_one_token_is_right_as_often_as_that_comes():
    state = STATE | {"unembedding.weight": torch.zeros(6, 8), "unembedding.bias": torch.tensor([0.0, 0, 50, 0, 0, 0])}
    _, accuracy = by_window(MODEL, state, windows(40))
    assert accuracy == pytest.approx((windows(40)[:, 1:] == 2).mean(axis=1))
    level = STATE | {"unembedding.weight": torch.zeros(6, 8), "unembedding.bias": torch.zeros(6)}
    report = text_report(MODEL, level, windows(40), 0, floor=1.25)
    assert (report.nats.value, report.nats.low, report.nats.high) == pytest.approx((np.log(6),) * 3)
    assert report.floor == 1.25


def test_a_report_comes_back_from_json_and_its_intervals_hold_its_figures():
    report = text_report(MODEL, STATE, windows(30), 3)
    assert TextReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert report == text_report(MODEL, STATE, windows(30), 3)
    for figure in (report.nats, report.accuracy):
        assert figure.low <= figure.value <= figure.high
