"""A node's own samples, and the meter of its work."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedcore.remote.data import DEALT, deal, load_samples
from fedcore.remote.meter import Meter
from fedcore.samples import Samples
from scenarios import InputError
from scenarios.schema import Workload

WORKLOAD = Workload(image_px=12)


@pytest.mark.parametrize("labels", [None, torch.arange(5)])
def test_what_is_dealt_is_read_as_it_was(tmp_path, labels):
    x = torch.randint(0, 256, (5, 1, 12, 12), dtype=torch.uint8)
    deal(tmp_path, Samples(x, labels))
    back = load_samples(tmp_path, WORKLOAD)
    assert torch.equal(back.x, x)
    assert (back.labels is None) == (labels is None)
    text = Workload(encoder="gpt", objective="next-token", data="grammar", window=7)
    deal(tmp_path, Samples(torch.zeros(3, 8, dtype=torch.int64)))
    assert len(load_samples(tmp_path, text)) == 3


def test_a_labs_folder_of_images_trains_without_its_test_images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    samples = load_samples(tmp_path, WORKLOAD)
    assert samples.x.shape == (30, 1, 12, 12)
    assert samples.x.dtype == torch.uint8


def test_what_does_not_fit_or_is_damaged_is_refused(tmp_path):
    deal(tmp_path, Samples(torch.zeros(5, 1, 9, 9, dtype=torch.uint8)))
    with pytest.raises(InputError, match=r"x is \(5, 1, 9, 9\) torch.uint8, expected images of \(12, 12\)"):
        load_samples(tmp_path, WORKLOAD)
    (tmp_path / DEALT).write_bytes((tmp_path / DEALT).read_bytes()[:30])
    with pytest.raises(InputError, match="is damaged or cut short"):
        load_samples(tmp_path, WORKLOAD)
    with pytest.raises(InputError, match="does not exist"):
        load_samples(tmp_path / "nowhere", WORKLOAD)
    with pytest.raises(InputError, match="reads text"):
        load_samples(tmp_path / "nowhere", Workload(encoder="gpt", objective="next-token", data="grammar"))


def counter(folder, microjoules: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(str(microjoules))
    (folder / "max_energy_range_uj").write_text("1000000")


def test_joules_come_from_the_processors_counter_where_it_can_be_read(tmp_path):
    counter(tmp_path / "intel-rapl:0", 100_000)
    counter(tmp_path / "intel-rapl:1", 900_000)
    counter(tmp_path / "intel-rapl:0:0", 5)  # a part of the first, counted in it
    with Meter(tmp_path) as meter:
        counter(tmp_path / "intel-rapl:0", 400_000)
        counter(tmp_path / "intel-rapl:1", 100_000)  # has wrapped
    assert meter.kind == "RAPL"
    assert meter.joules == pytest.approx(0.3 + 0.2)
    assert meter.seconds > 0
    with Meter(tmp_path / "nowhere") as meter:
        pass
    assert (meter.kind, meter.joules) == ("power model", None)


def test_a_supplied_meter_goes_before_the_counter(tmp_path):
    counter(tmp_path / "intel-rapl:0", 100_000)
    file = tmp_path / "plug"
    file.write_text("1200.5\n")
    with Meter(tmp_path, file) as meter:
        file.write_text("1203.0\n")
    assert (meter.kind, meter.joules) == ("supplied meter", 2.5)
    with Meter(tmp_path, file) as meter:
        file.write_text("3.0\n")  # it was started anew
    assert meter.joules == 0.0
    for content in ("", "many", "nan"):
        file.write_text(content)
        with pytest.raises(InputError, match="plug has no number; expected a file that holds the joules used so far"), Meter(
            tmp_path, file
        ):
            pass
