"""Recorded links as a scenario's `link:` fields: `python -m scenarios.fit_links FILES... [--bin-s 5]`.

Reads capacity traces (`second,uplink_mbps,downlink_mbps`) and prints YAML to paste into a scenario, so that a scenario can
behave like a recorded network without carrying its traces. Each direction of each trace is one sample of the same law:

- outages: stretches below 5 % of the sample's mean. Mean stays are seconds over transitions (the maximum-likelihood estimate
  of a two-state chain whose first and last stays are cut off); `rate_fraction` is mean rate within over mean rate outside.
- uplink_mbps, downlink_mbps: mean rate outside outages, every trace weighing the same, since an episode sees one.
- variability: moments of the log-normal law, sigma^2 = ln(1 + CV^2), with CV of rate over its sample's mean.
- correlation_s: -bin_s / ln(r); moments again: r = ln(1 + C) / ln(1 + CV^2), with C the lag-1 autocovariance over the mean
  squared, from pairs that are both outside outages.
- mean_spread: standard deviation of ln(mean rate) over traces, less what means of correlated samples scatter anyway.

A sample of n values holds n_e = n (1 - r) / (1 + r) independent ones: its own mean hides CV^2 / n_e of variance and
autocovariance, which is added, and scatters as much, which is taken from the spread (solved for r by iteration). Where
links vary within a second or two, a transfer averages
over that; the simulator holds a rate for a round (outages move by the second), so average first over what a transfer
takes (`--bin-s`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from scenarios.errors import InputError
from scenarios.schema import Link, Outages
from scenarios.traces import LinkTrace, read_link_trace

OUTAGE_BELOW = 0.05
"""Of a sample's mean: less is an outage."""
MIN_BINS = 10
MOST_HIDDEN = 0.5
"""Traces of a few correlation times: beyond this, corrections are guesses."""
LEAST_FRACTION = 0.001  # the schema wants some rate in outages; recorded ones often have none


@dataclass(frozen=True)
class _Sample:
    """One direction of one trace.

    Attributes:
        rate: (n,) Mbit/s.
        up: (n,) whether outside outages.
        mean: Mbit/s outside outages.
    """

    rate: NDArray[np.float64]
    up: NDArray[np.bool_]
    mean: float


def _sample(bps: NDArray[np.float64], bin_s: int) -> _Sample:
    bins = len(bps) // bin_s
    rate = bps[: bins * bin_s].reshape(bins, bin_s).mean(axis=1) / 1e6
    up = rate >= OUTAGE_BELOW * rate.mean()
    return _Sample(rate, up, float(rate[up].mean()))


def _moments(samples: Sequence[_Sample]) -> tuple[float, float, float]:
    """CV^2 of rates, correlation of ln(rate) at lag 1 within (0, 1), and independent values per sample."""
    products, squares = [], []
    for s in samples:
        x = np.where(s.up, s.rate / s.mean - 1.0, 0.0)
        products.append((x[1:] * x[:-1])[s.up[1:] & s.up[:-1]])
        squares.append(x[s.up] ** 2)
    variance = float(np.concatenate(squares).mean())
    neighbours = np.concatenate(products)
    covariance = float(neighbours.mean()) if len(neighbours) else 0.0  # never up in two bins in a row
    n = float(np.mean([s.up.sum() for s in samples]))
    cv2, r = variance, covariance / variance if variance > 0 else 0.0
    for _ in range(50):
        r = float(np.clip(r, 0.01, 1.0 - 1.0 / n))
        hidden = min((1.0 + r) / (1.0 - r) / n, MOST_HIDDEN)
        cv2 = variance / (1.0 - hidden)
        r = math.log1p(max(covariance + hidden * cv2, 0.0)) / math.log1p(cv2) if cv2 > 0 else 0.0
    return cv2, float(np.clip(r, 0.01, 1.0 - 1.0 / n)), 1.0 / hidden


def _outages(samples: Sequence[_Sample], bin_s: int) -> Outages | None:
    up_bins = sum(int(s.up.sum()) for s in samples)
    down_bins = sum(len(s.up) for s in samples) - up_bins
    if down_bins == 0:
        return None
    starts = sum(int((s.up[:-1] & ~s.up[1:]).sum()) for s in samples)
    ends = sum(int((~s.up[:-1] & s.up[1:]).sum()) for s in samples)
    left = float(np.mean(np.concatenate([s.rate[~s.up] / s.mean for s in samples])))
    down_s = bin_s * down_bins / max(ends, 1)
    return Outages(
        mean_up_s=bin_s * up_bins / max(starts, 1), mean_down_s=down_s, rate_fraction=max(left, LEAST_FRACTION)
    )


def fit_links(traces: Sequence[LinkTrace], bin_s: int = 1) -> Link:
    """Fit the link model; see the module's text for the method.

    Args:
        traces: at least one; (T,) bit/s per direction.
        bin_s: seconds that are averaged before anything else.

    Returns:
        A link of which uplink_mbps, downlink_mbps, variability, correlation_s, mean_spread and outages are fitted.

    Raises:
        InputError: no trace, bin_s below 1, or a trace with fewer than 10 bins.
    """
    if not traces:
        raise InputError("no trace is given, expected at least one CSV file")
    if bin_s < 1:
        raise InputError(f"--bin-s is {bin_s}, expected at least 1")
    for trace in traces:
        if len(trace.up_bps) // bin_s < MIN_BINS:
            raise InputError(f"a trace has {len(trace.up_bps)} seconds, expected at least {MIN_BINS} bins of --bin-s {bin_s}")
    both = [[_sample(bps, bin_s) for bps in (t.up_bps, t.down_bps)] for t in traces]
    samples = [sample for pair in both for sample in pair]
    least = min(int(sample.up.sum()) for sample in samples)
    if least < MIN_BINS:
        raise InputError(f"a trace's link is up in {least} bins of --bin-s {bin_s} one way, expected at least {MIN_BINS}")
    cv2, r, independent = _moments(samples)
    spread = 0.0
    if len(traces) > 1:
        means = np.log([[s.mean for s in pair] for pair in both])
        spread = math.sqrt(max(float(means.var(axis=0, ddof=1).mean()) - cv2 / independent, 0.0))
    return Link(
        uplink_mbps=float(np.mean([pair[0].mean for pair in both])),
        downlink_mbps=float(np.mean([pair[1].mean for pair in both])),
        variability=math.sqrt(math.log1p(cv2)),
        correlation_s=-bin_s / math.log(r),
        mean_spread=spread,
        outages=_outages(samples, bin_s),
    )


def link_yaml(link: Link, source: str) -> str:
    """The fitted fields as YAML for a scenario, with the source as a comment."""
    lines = [f"link: # {source}"]
    for name in ("uplink_mbps", "downlink_mbps", "variability", "correlation_s", "mean_spread"):
        lines.append(f"  {name}: {getattr(link, name):.3g}")
    if link.outages is not None:
        o = link.outages
        stays = f"mean_up_s: {o.mean_up_s:.3g}, mean_down_s: {o.mean_down_s:.3g}, rate_fraction: {o.rate_fraction:.2g}"
        lines.append(f"  outages: {{{stays}}}")
    return "\n".join(lines)


def fit_files(paths: Sequence[Path], bin_s: int = 1) -> str:
    """The `link:` fields fitted to capacity traces in CSV files, as YAML; raises as `read_link_trace` and `fit_links`."""
    traces = []
    for path in paths:
        trace = read_link_trace(path)
        if bin_s >= 1 and len(trace.up_bps) // bin_s < MIN_BINS:
            raise InputError(
                f"{path}: has {len(trace.up_bps)} seconds, expected at least {MIN_BINS} bins of --bin-s {bin_s}"
            )
        for bps in (trace.up_bps, trace.down_bps) if bin_s >= 1 else ():
            up = int(_sample(bps, bin_s).up.sum())
            if up < MIN_BINS:
                raise InputError(
                    f"{path}: its link is up in {up} bins of --bin-s {bin_s} one way, expected at least {MIN_BINS}"
                )
        traces.append(trace)
    link = fit_links(traces, bin_s)
    shown = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    seconds = sum(len(t.up_bps) for t in traces)
    return link_yaml(link, f"fitted to {shown}: {seconds} s in all, in bins of {bin_s} s")


@dataclass(frozen=True)
class FitOptions:
    """Print the `link:` fields of a scenario that behaves like recorded links.

    Attributes:
        files: CSV files with the columns second,uplink_mbps,downlink_mbps.
        bin_s: seconds that are averaged first; about what a transfer takes.
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    bin_s: int = 1


def main() -> None:
    """Command line."""
    options = tyro.cli(FitOptions)
    try:
        print(fit_files(options.files, options.bin_s))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
