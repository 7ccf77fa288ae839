import json

import pytest

from optimum_ssgr.calibration.text import characters_for
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.problems.documents import load_documents


@pytest.mark.slow
def test_sources(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo")
    assert load_documents(tmp_path / "a.txt", 10) == ["one\ntwo"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "x" * 10}) for _ in range(50)))
    assert load_documents(tmp_path / "a.jsonl", 35) == ["x" * 10] * 4
    assert sum(map(len, load_documents("tiny-reasoner", 0))) > 1_000_000


def test_bad_sources(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"story": "x"}')
    with pytest.raises(DataError, match=r"has no column text; its columns are story"):
        load_documents(tmp_path / "a.jsonl", 10)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"is not UTF-8 text"):
        load_documents(tmp_path / "a.txt", 10)


def test_enough_text_for_either_budget():
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=4, text_length=100)) == 3200
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=4, num_tokens=250, text_length=100)) == 2000
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=None, num_tokens=2500)) == 20000


def test_enough_text_for_a_window_whatever_the_budget():
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=None, num_tokens=50, text_length=100)) == 800


def test_a_library_error_that_is_a_key_error_is_one_sentence(monkeypatch):
    def load(*_, **__):
        raise KeyError("unknown codec")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(DataError, match="cannot read text from 'some/set': 'unknown codec'"):
        load_documents("some/set", 10)
