import json

import pytest
from datasets import load_dataset

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.strategies import select
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError

from .test_strategies import graded


@pytest.fixture
def built():
    items = graded({"a": 1, "b": 2, "c": 4})
    return CalibrationSet.build(select(items, CalibrationConfig(num_sequences=4)), items, {"model": "m"})


def test_round_trip(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    assert loaded.sequences == built.sequences
    assert loaded.manifest == built.manifest
    assert loaded.rollouts.to_list() == built.rollouts.to_list()


def test_counts(built):
    assert built.manifest["counts"] == {
        "problems": 3,
        "rollouts": 12,
        "finished": 12,
        "correct": 7,
        "sequences": 4,
        "tokens": sum(map(len, built.sequences)),
    }


def test_plain_datasets_reads_it(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    plain = load_dataset("parquet", data_dir=str(tmp_path / "set" / "rollouts"), split="train", cache_dir=str(tmp_path / "c"))
    assert plain.num_rows == 12
    assert sum(plain["correct"]) == 7


def test_same_content_same_files(built, tmp_path):
    for name in ("first", "second"):
        built.save_to_disk(tmp_path / name)
    for path in (tmp_path / "first").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()


def test_damage_is_noticed(built, tmp_path):
    with pytest.raises(DataError, match=r"is not a calibration set: manifest\.json is missing"):
        CalibrationSet.load_from_disk(tmp_path)
    built.save_to_disk(tmp_path / "set")
    manifest, data = tmp_path / "set" / "manifest.json", tmp_path / "set" / "calibration" / "train.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:-100])
    with pytest.raises(DataError, match="is damaged"):
        CalibrationSet.load_from_disk(tmp_path / "set")
    data.write_bytes(whole)
    changed = json.loads(manifest.read_text()) | {"content_hash": "0"}
    manifest.write_text(json.dumps(changed))
    with pytest.raises(DataError, match="do not match its manifest"):
        CalibrationSet.load_from_disk(tmp_path / "set")
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"manifest of .* is damaged"):
        CalibrationSet.load_from_disk(tmp_path / "set")
