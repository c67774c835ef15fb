import gzip
import json

import pytest

from fedcore.recorded import keep_records, recorded_path, unpack_records
from scenarios.errors import InputError

RECORDS = {"some-0001.json": {"run": 1, "rounds": [{"steps": 5, "infonce": 4.25}]}, "target36-0.json": [5.0, 4.0]}


def test_records_come_back_as_they_were_and_only_where_they_are_missing(tmp_path):
    path, folder = recorded_path(tmp_path, "mine"), tmp_path / "calibrate-abc"
    keep_records(path, "calibrate-abc", RECORDS)
    folder.mkdir()
    (folder / "some-0001.json").write_text('"recorded here"')
    unpack_records(path, folder)
    assert json.loads((folder / "some-0001.json").read_text()) == "recorded here"
    assert json.loads((folder / "target36-0.json").read_text()) == [5.0, 4.0]
    first = path.read_bytes()
    keep_records(path, "calibrate-abc", RECORDS)
    assert path.read_bytes() == first


def test_records_of_other_work_and_missing_files_are_passed_over(tmp_path):
    path = recorded_path(tmp_path, "mine")
    unpack_records(path, tmp_path / "calibrate-abc")
    keep_records(path, "calibrate-other", RECORDS)
    unpack_records(path, tmp_path / "calibrate-abc")
    assert not (tmp_path / "calibrate-abc").exists()


def test_damage_is_told_and_no_name_leads_out_of_the_folder(tmp_path):
    path = recorded_path(tmp_path, "mine")
    path.write_bytes(gzip.compress(b"{")[:10])
    with pytest.raises(InputError, match="is damaged"):
        unpack_records(path, tmp_path / "work")
    keep_records(path, "work", {"../escaped.json": 1, "fine.json": 2})
    unpack_records(path, tmp_path / "work")
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["fine.json"]
    assert not (tmp_path / "escaped.json").exists()
