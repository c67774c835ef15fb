"""Traces: what a file says second by second, and what is wrong with it in one sentence."""

from pathlib import Path

import numpy as np
import pytest

from scenarios import InputError, load
from scenarios.traces import read_link_trace, read_presence

SHARED = Path(__file__).parents[3] / "shared/data/traces"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_row_holds_until_the_next(tmp_path: Path) -> None:
    text = "second,uplink_mbps,downlink_mbps,note\n10,1.5,6,a\n12,0,3,b\n13,2,1,c\n"
    got = read_link_trace(write(tmp_path / "t.csv", text))
    assert got.up_bps.tolist() == [1.5e6, 1.5e6, 0.0, 2e6]
    assert got.down_bps.tolist() == [6e6, 6e6, 3e6, 1e6]


def test_a_second_has_the_mean_of_the_rows_within_it(tmp_path: Path) -> None:
    head = "second,uplink_mbps,downlink_mbps\n"
    quarters = "".join(f"{5 + i / 4},{10 if i % 4 == 0 else 0.01},4\n" for i in range(12))
    got = read_link_trace(write(tmp_path / "t.csv", head + quarters))
    assert got.up_bps == pytest.approx([2.5075e6] * 3)
    assert got.down_bps == pytest.approx([4e6] * 3)
    got = read_link_trace(write(tmp_path / "u.csv", head + "0,1,1\n0.5,3,1\n2.25,8,1\n"))
    assert got.up_bps == pytest.approx([2e6, 3e6, (0.25 * 3 + 0.75 * 8) * 1e6])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("second,uplink_mbps\n0,1\n", "column downlink_mbps is missing, expected a header with second,uplink_mbps,downlink"),
        ("", "column second is missing"),
        ("second,uplink_mbps,downlink_mbps\n", "has no rows"),
        ("second,uplink_mbps,downlink_mbps\n0,1,x\n", "line 2: downlink_mbps is 'x', expected a number"),
        ("second,uplink_mbps,downlink_mbps\n0,1\n", "line 2: downlink_mbps is None, expected a number"),
        ("second,uplink_mbps,downlink_mbps\n0,1,2\n1,-1,2\n", "line 3: uplink_mbps is -1, expected a finite number"),
        ("second,uplink_mbps,downlink_mbps\n0,1,nan\n", "line 2: downlink_mbps is nan"),
        ("second,uplink_mbps,downlink_mbps\n3,1,2\n3,1,2\n", "line 3: second 3 does not follow 3"),
        ("second,uplink_mbps,downlink_mbps\n0,1,2\n1e9,1,2\n", "spans 1000000001 seconds, expected at most"),
        ("second,uplink_mbps,downlink_mbps\n0,1,2\n\n\n1,1,x\n", "line 5: downlink_mbps is 'x'"),
        ("second,uplink_mbps,downlink_mbps\n\n3,1,2\n\n3,1,2\n", "line 5: second 3 does not follow 3"),
        ("second,uplink_mbps,uplink_mbps,downlink_mbps\n0,1,2,3\n", "column uplink_mbps is there twice"),
        ("second,uplink_mbps,downlink_mbps\n0,1,2,3\n", "line 2: has more values than the header has columns \\(3\\)"),
        ("second,uplink_mbps,downlink_mbps\n0,1,2\n1,1,1e300\n", "line 3: 1,1,1e\\+300 has a rate above 1e\\+09 Mbit/s"),
        ("second,uplink_mbps,downlink_mbps\n0,0,2\n1,0,2\n", "a direction has no capacity at all"),
    ],
)
def test_faults_are_told(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"t\.csv: {says}"):
        read_link_trace(write(tmp_path / "t.csv", text))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        read_link_trace(tmp_path / "none.csv")
    (tmp_path / "raw.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read"):
        read_link_trace(tmp_path / "raw.csv")


@pytest.mark.parametrize(
    "text",
    [
        "Second,Uplink_Mbps,DOWNLINK_MBPS\n0,1,2\n1,3,4\n",
        "second , uplink_mbps ,downlink_mbps\n0,1,2\n1,3,4\n",
        "\n\nsecond,uplink_mbps,downlink_mbps\n0,1,2\n\n1,3,4\n",
        "second,uplink_mbps,downlink_mbps\n0,1,2,\n1,3,4, ,\n",
        "second,uplink_mbps,downlink_mbps,\r\n0,1,2,\r\n1,3,4,\r\n",
    ],
)
def test_headers_and_rows_as_spreadsheets_write_them(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    got = read_link_trace(tmp_path / "t.csv")
    assert got.up_bps.tolist() == [1e6, 3e6]
    assert got.down_bps.tolist() == [2e6, 4e6]


def test_faults_below_empty_lines_are_told_by_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\n  \nsecond,uplink_mbps,downlink_mbps\n0,1,2\n1,bad,2\n")
    with pytest.raises(InputError, match="line 5: uplink_mbps is 'bad'"):
        read_link_trace(path)


def test_a_trace_is_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="is no file, expected a CSV file"):
            read_link_trace(path)


def test_presence(tmp_path: Path) -> None:
    assert read_presence(write(tmp_path / "p.csv", "on_s,off_s\n0,5\n7.5,9\n")).tolist() == [[0, 5], [7.5, 9]]
    for text, says in (
        ("on_s,off_s\n0,5\n4,9\n", "line 3: 4,9 does not follow"),
        ("on_s,off_s\n5,5\n", "line 2: 5,5 does not follow"),
    ):
        with pytest.raises(InputError, match=says):
            read_presence(write(tmp_path / "p.csv", text))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "second,uplink_mbps,downlink_mbps\n0,1,2\n")
    assert read_link_trace(path).up_bps.tolist() == [1e6]
    write(path, "second,uplink_mbps,downlink_mbps\n0,3,2\n1,3,3\n")
    assert read_link_trace(path).up_bps.tolist() == [3e6, 3e6]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces of shared/data are not here")
@pytest.mark.parametrize("name", ["att-lte-driving-2016.csv", "att-lte-driving.csv", "verizon-lte-short.csv"])
def test_recorded_traces_read(name: str) -> None:
    got = read_link_trace(SHARED / name)
    assert len(got.up_bps) == len(got.down_bps) > 60
    assert np.isfinite(got.up_bps).all()
    assert got.up_bps.mean() > 1e5


def test_scenarios_find_traces_beside_themselves(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "second,uplink_mbps,downlink_mbps\n0,1,2\n")
    device = "{throughput_gflops: 1, memory_mb: 100, active_power_w: 1, idle_power_w: 1}"
    text = (
        f"name: x\nfleet:\n  groups:\n    - name: a\n      device: {device}\n"
        "      link: {uplink_mbps: 1, downlink_mbps: 2, trace: t.csv}\n      availability: {trace: p.csv}\n"
    )
    group = load(write(tmp_path / "x.yaml", text)).fleet.groups[0]
    assert group.link.trace == str(tmp_path / "t.csv")
    assert group.availability is not None
    assert group.availability.trace == str(tmp_path / "p.csv")


def test_spaces_after_commas_do_not_matter(tmp_path):
    (tmp_path / "t.csv").write_text("second, uplink_mbps, downlink_mbps\n0, 1, 2\n1, 3, 4\n")
    assert read_link_trace(tmp_path / "t.csv").up_bps.tolist() == [1e6, 3e6]
