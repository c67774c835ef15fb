"""Fitting links: traces drawn from the very model give their parameters back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from scenarios import InputError
from scenarios.fit_links import fit_files, fit_links, link_yaml
from scenarios.schema import Link, Outages
from scenarios.traces import LinkTrace, read_link_trace

SHARED = Path(__file__).parents[3] / "shared/data/traces"
TRUTH = Link(
    uplink_mbps=1.5,
    downlink_mbps=6.0,
    variability=0.5,
    correlation_s=20.0,
    mean_spread=0.4,
    outages=Outages(mean_up_s=120.0, mean_down_s=12.0, rate_fraction=0.02),
)


def drawn(link: Link, seconds: int, rng: np.random.Generator) -> LinkTrace:
    """One trace by the simulator's law, second by second: a log-normal mean, a log-normal process, two-state outages."""
    x = np.empty(seconds)
    x[0] = rng.normal()
    rho = np.exp(-1.0 / link.correlation_s)
    for t in range(1, seconds):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * rng.normal()
    factor = np.exp(link.variability * x - link.variability**2 / 2)
    factor *= np.exp(link.mean_spread * rng.normal() - link.mean_spread**2 / 2)
    if link.outages is not None:
        t, down = 0, False
        while t < seconds:
            stay = int(rng.geometric(1.0 / (link.outages.mean_down_s if down else link.outages.mean_up_s)))
            if down:
                factor[t : t + stay] *= link.outages.rate_fraction
            t, down = t + stay, not down
    return LinkTrace(link.uplink_mbps * 1e6 * factor, link.downlink_mbps * 1e6 * factor)


def written(trace: LinkTrace, path: Path) -> Path:
    rows = [f"{t},{u / 1e6:.6f},{d / 1e6:.6f}" for t, (u, d) in enumerate(zip(trace.up_bps, trace.down_bps, strict=True))]
    path.write_text("\n".join(["second,uplink_mbps,downlink_mbps", *rows]))
    return path


def test_parameters_come_back() -> None:
    rng = np.random.default_rng(1)
    got = fit_links([drawn(TRUTH, 1200, rng) for _ in range(120)])
    assert got.uplink_mbps == pytest.approx(1.5, rel=0.12)
    assert got.downlink_mbps == pytest.approx(6.0, rel=0.12)
    assert got.variability == pytest.approx(0.5, rel=0.08)
    assert got.correlation_s == pytest.approx(20.0, rel=0.12)
    assert got.mean_spread == pytest.approx(0.4, rel=0.2)
    assert got.outages is not None
    assert got.outages.mean_up_s == pytest.approx(120.0, rel=0.12)
    assert got.outages.mean_down_s == pytest.approx(12.0, rel=0.12)
    assert got.outages.rate_fraction == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("variability", "correlation_s"), [(0.2, 5.0), (0.8, 5.0), (0.4, 60.0)])
def test_the_process_alone_comes_back_from_one_long_trace(variability: float, correlation_s: float) -> None:
    truth = Link(uplink_mbps=2.0, downlink_mbps=4.0, variability=variability, correlation_s=correlation_s)
    got = fit_links([drawn(truth, 30_000, np.random.default_rng(2))])
    assert got.variability == pytest.approx(variability, rel=0.1)
    assert got.correlation_s == pytest.approx(correlation_s, rel=0.15)
    assert got.uplink_mbps == pytest.approx(2.0, rel=0.1)
    assert got.mean_spread == 0.0


def test_short_traces_are_corrected_for() -> None:
    # Ten correlation times each: uncorrected, the means alone look like a spread of 0.18, and r forgets in 23 s.
    truth = Link(uplink_mbps=2.0, downlink_mbps=4.0, variability=0.4, correlation_s=30.0)
    rng = np.random.default_rng(3)
    got = fit_links([drawn(truth, 300, rng) for _ in range(200)])
    assert got.mean_spread < 0.1
    assert got.correlation_s == pytest.approx(30.0, rel=0.2)
    assert got.variability == pytest.approx(0.4, rel=0.15)


def test_a_link_that_never_changes() -> None:
    got = fit_links([LinkTrace(np.full(60, 3e6), np.full(60, 9e6))] * 2)
    assert (got.uplink_mbps, got.downlink_mbps, got.variability, got.mean_spread) == (3.0, 9.0, 0.0, 0.0)
    assert got.outages is None


def test_outages_by_hand() -> None:
    # Up 20, down 5, up 25: one start, one end, 45 seconds up, 5 down, at 1 % of 8 Mbit/s.
    rate = np.concatenate([np.full(20, 8e6), np.full(5, 8e4), np.full(25, 8e6)])
    outages = fit_links([LinkTrace(rate, rate)]).outages
    assert outages is not None
    assert (outages.mean_up_s, outages.mean_down_s) == (45.0, 5.0)
    assert outages.rate_fraction == pytest.approx(0.01)
    silent = fit_links([LinkTrace(np.where(rate < 1e6, 0.0, rate), rate)]).outages
    assert silent is not None
    assert silent.rate_fraction > 0


def test_bins_average_what_a_transfer_averages() -> None:
    truth = Link(uplink_mbps=2.0, downlink_mbps=4.0, variability=0.5, correlation_s=2.0)
    trace = drawn(truth, 20_000, np.random.default_rng(4))
    fine, coarse = fit_links([trace]), fit_links([trace], bin_s=10)
    assert coarse.variability < 0.75 * fine.variability
    assert coarse.uplink_mbps == pytest.approx(fine.uplink_mbps, rel=0.01)


def test_the_text_is_a_link(tmp_path: Path) -> None:
    files = [written(drawn(TRUTH, 400, np.random.default_rng(i)), tmp_path / f"{i}.csv") for i in range(3)]
    text = fit_files(files)
    assert "0.csv, 1.csv, 2.csv" in text
    got = Link.model_validate(yaml.safe_load(text)["link"])
    fitted = fit_links([read_link_trace(file) for file in files])
    assert got.uplink_mbps == pytest.approx(fitted.uplink_mbps, rel=0.01)
    assert got.outages is not None
    assert "outages" not in link_yaml(Link(uplink_mbps=1, downlink_mbps=1), "x")


@pytest.mark.parametrize(
    ("seconds", "options", "says"),
    [
        (9, {}, "has 9 seconds, expected at least 10 bins of --bin-s 1"),
        (90, {"bin_s": 10}, "has 90 seconds, expected at least 10 bins of --bin-s 10"),
        (90, {"bin_s": 0}, "--bin-s is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_fitted_is_told(seconds: int, options: dict[str, float], says: str, tmp_path: Path) -> None:
    flat = np.full(seconds, 1e6)
    with pytest.raises(InputError, match=says):
        fit_files([written(LinkTrace(flat, flat), tmp_path / "t.csv")], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no trace is given"):
        fit_links([])


def test_the_command_line(tmp_path: Path) -> None:
    file = written(drawn(TRUTH, 200, np.random.default_rng(0)), tmp_path / "t.csv")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scenarios.fit_links", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])

    good, bad = run(str(file), "--bin-s", "2"), run(str(tmp_path / "none.csv"))
    assert good.returncode == 0
    assert Link.model_validate(yaml.safe_load(good.stdout)["link"]).uplink_mbps > 0
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ")
    assert bad.stderr.count("\n") == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces of shared/data are not here")
def test_recorded_traces_are_what_the_library_says() -> None:
    got = fit_links([read_link_trace(path) for path in sorted(SHARED.glob("*.csv"))])
    scenario = yaml.safe_load((Path(__file__).parents[2] / "scenarios/library/mobile-driving-vans.yaml").read_text())
    said = Link.model_validate(scenario["fleet"]["groups"][0]["link"])
    for name in ("uplink_mbps", "downlink_mbps", "variability", "correlation_s", "mean_spread"):
        assert getattr(got, name) == pytest.approx(getattr(said, name), rel=0.01), name
    assert got.outages is not None
    assert said.outages is not None
    assert got.outages.mean_up_s == pytest.approx(said.outages.mean_up_s, rel=0.01)
    assert got.outages.rate_fraction == pytest.approx(said.outages.rate_fraction, rel=0.02)


def test_a_link_that_is_hardly_ever_up_is_refused() -> None:
    bps = np.zeros(1000)
    bps[3] = 1e6
    with pytest.raises(InputError, match="a trace's link is up in 1 bins of --bin-s 1 one way, expected at least 10"):
        fit_links([LinkTrace(bps, bps)])
