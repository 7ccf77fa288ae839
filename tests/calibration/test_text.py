import json
from itertools import combinations

import pytest

from optimum_ssgr.calibration.select import encode_text
from optimum_ssgr.calibration.strategies import select
from optimum_ssgr.calibration.text import characters_for, draw_documents
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
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=4, text_length=100)) == 16 * 3200
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=4, num_tokens=250, text_length=100)) == 16 * 2000
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=None, num_tokens=2500)) == 16 * 20000


def test_enough_text_for_a_window_whatever_the_budget():
    assert characters_for(CalibrationConfig(strategy="text", num_sequences=None, num_tokens=50, text_length=100)) == 16 * 800


def test_sets_of_different_seeds_have_little_in_common(reasoner):
    documents = [f"{number} " + " ".join(f"{(number * 7919 + place) % 10007}" for place in range(60)) for number in range(2000)]
    configs = [CalibrationConfig(strategy="text", num_sequences=16, text_length=128, seed=seed) for seed in range(4)]
    assert characters_for(configs[0]) < sum(map(len, documents))  # that much is read
    taken = [select(encode_text(reasoner[1], documents, config), config) for config in configs]
    assert taken[0] == select(encode_text(reasoner[1], documents, configs[0]), configs[0])
    assert all(len(sequences) == 16 for sequences in taken)

    def pieces(sequences):
        """Every ten tokens in a row, wherever a window begins."""
        ids = [sequence.input_ids for sequence in sequences]
        return {window[start : start + 10] for window in ids for start in range(len(window) - 9)}

    for ours, theirs in combinations(map(pieces, taken), 2):
        assert len(ours & theirs) < 0.15 * len(ours)


def test_a_seed_draws_documents_until_there_are_enough():
    documents = ["x" * 100] * 5 + ["y" * 100] * 5
    config = CalibrationConfig(strategy="text", num_sequences=1, text_length=50)
    assert len(draw_documents(documents, config)) == 4
    assert draw_documents(documents, config) == draw_documents(documents, config)
    assert sorted(draw_documents(documents[:3], config)) == documents[:3]


def test_a_library_error_that_is_a_key_error_is_one_sentence(monkeypatch):
    def load(*_, **__):
        raise KeyError("unknown codec")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(DataError, match="cannot read text from 'some/set': 'unknown codec'"):
        load_documents("some/set", 10)
