"""What is kept of a scenario hangs on what is in the files that it reads."""

import os

import pytest

from agents.judge import Cell, cell_scenario
from agents.real_run import Job
from agents.worlds import contents
from fedcore.compare import CompareOptions, key_of, specs_of
from fedcore.world import compile_world
from scenarios import InputError, load, parse
from scenarios.sources import file_state, sources_of


def scenario(**workload):
    content = load("farm-lte").model_dump(mode="json")
    content["workload"].update(workload)
    return content


def images(folder):
    (folder / "fungi").mkdir(parents=True)
    for k in range(3):
        (folder / "fungi" / f"{k}.png").write_bytes(b"x" * 10)
    return folder


def test_a_scenario_of_the_programs_own_data_reads_nothing():
    assert sources_of(load("farm-lte")) == []


def test_any_change_below_a_folder_is_noticed_and_nothing_else(tmp_path):
    folder = images(tmp_path / "soil")
    states = [file_state(folder)]
    assert file_state(folder) == states[0]
    (folder / "fungi" / "0.png").write_bytes(b"y" * 11)  # in place: the folder's own time stands
    states.append(file_state(folder))
    os.utime(folder / "fungi" / "1.png", (1, 1))
    states.append(file_state(folder))
    (folder / "fungi" / "2.png").unlink()
    states.append(file_state(folder))
    assert len(set(states)) == len(states)
    with pytest.raises(InputError, match=r"cannot be read .*expected a file or a folder"):
        file_state(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["cell", "job", "compare", "target"])
def test_results_on_images_are_kept_by_what_is_in_their_folder(tmp_path, name):
    folder = images(tmp_path / "soil")

    def key():
        if name == "cell":
            return Cell("equal", scenario(), 0, str(folder), 1.0).key()
        if name == "target":
            return Cell("reference", scenario(data=str(folder)), 0).key()
        if name == "job":
            return Job("equal", scenario(), 0, "", str(folder)).identity()
        return key_of(specs_of(CompareOptions(data=folder, methods=("fedavg",), seeds=1))[0])

    before = key()
    assert key() == before
    (folder / "fungi" / "0.png").write_bytes(b"z" * 12)
    assert key() != before


@pytest.mark.parametrize("name", ["cell", "job", "compare", "training"])
def test_results_on_recorded_links_are_kept_by_what_is_in_them(tmp_path, name):
    trace, file = tmp_path / "link.csv", tmp_path / "mine.yaml"
    content = scenario()
    content["fleet"]["groups"][0]["link"]["trace"] = str(trace)
    trace.write_text("second,uplink_mbps,downlink_mbps\n0,8,8\n60,8,8\n")
    file.write_text(parse(content, "mine").model_dump_json())

    def key():
        own = load(file)
        if name == "cell":
            return Cell("equal", cell_scenario(own), 0).key()
        if name == "job":
            return Job("equal", cell_scenario(own), 0, "").identity()
        if name == "training":
            return contents([compile_world(own)])
        return key_of(specs_of(CompareOptions(scenario=str(file), methods=("fedavg",), seeds=1))[0])

    before = key()
    os.utime(trace, (1, 1))
    assert key() == before  # by content: it may be a fresh copy
    trace.write_text("second,uplink_mbps,downlink_mbps\n0,1,1\n60,1,1\n")
    assert key() != before


def test_a_trace_that_is_gone_is_told(tmp_path):
    content = scenario()
    content["fleet"]["groups"][0]["link"]["trace"] = str(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"trace .*gone.csv cannot be read"):
        sources_of(parse(content, "mine"))
