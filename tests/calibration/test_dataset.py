import json

import pytest
from datasets import load_dataset

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.formats import Origin

from .test_strategies import graded, timed_out


ORIGIN = Origin(model="org/model", model_commit=None, dtype="float32", tokenizer_hash="0", versions={})


@pytest.fixture
def built():
    return make(CalibrationConfig(num_sequences=4))


def make(config):
    items = graded({"a": 1, "b": 2, "c": 4})
    return CalibrationSet.build(select(Sources(items), config), items, ORIGIN, config)


def test_round_trip(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    assert loaded.sequences == built.sequences
    assert loaded.manifest == built.manifest
    assert loaded.rollouts.to_list() == built.rollouts.to_list()


def test_token_weights_survive(tmp_path):
    weighted = make(CalibrationConfig(strategy="resp", num_sequences=4))
    weighted.save_to_disk(tmp_path / "set")
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    assert loaded.token_weights == [[0.0] * 3 + [1.0] * (len(ids) - 3) for ids in weighted.sequences]
    plain = make(CalibrationConfig(strategy="rac", num_sequences=4))
    assert (plain.sequences, plain.token_weights) == (weighted.sequences, None)
    assert plain.manifest.content_hash != weighted.manifest.content_hash


def test_rollouts_come_back_as_they_were_graded(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    assert CalibrationSet.load_from_disk(tmp_path / "set").graded_rollouts() == graded({"a": 1, "b": 2, "c": 4})


def test_what_timed_out_comes_back_so_and_is_left_open_in_the_table(tmp_path):
    items = [*graded({"a": 1, "b": 2}), timed_out("a", 4, 90), timed_out("z", 0, 90)]
    config = CalibrationConfig(strategy="rac", num_sequences=20, max_per_problem=9)
    CalibrationSet.build(select(Sources(items), config), items, ORIGIN, config).save_to_disk(tmp_path / "set")
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    assert loaded.graded_rollouts() == items
    assert [row["correct"] for row in loaded.rollouts if row["num_tokens"] == 90] == [None, None]
    assert [row["correct"] for row in loaded.dataset if row["num_tokens"] == 93] == [None, None]
    assert (loaded.manifest.counts["problems"], loaded.manifest.counts["timed_out"]) == (3, 2)


def test_what_is_known_of_a_sequence_stands_beside_it(built):
    for row in built.dataset:
        assert (row["problem"], row["answer"], row["response"], row["correct"]) == ("q", "a", "text", True)
        assert row["pass_rate"] == {"a": 0.25, "b": 0.5, "c": 1.0}[row["problem_id"]]


def test_the_funnel_counts_every_stage(built):
    # Correct: a 10, b 10 20, c 10 20 30 40 tokens; a and b are challenging, and 10 to 15 tokens are moderate among theirs.
    assert built.manifest.counts == {
        "problems": 3,
        "rollouts": 12,
        "generated_tokens": 300,
        "finished": 12,
        "correct": 7,
        "in_difficulty_window": 3,
        "in_length_window": 2,
        "widened": 2,
        "sequences": 4,
        "tokens": sum(map(len, built.sequences)),
    }


def test_histograms_are_drawn(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    assert (tmp_path / "set" / "histograms.png").read_bytes().startswith(b"\x89PNG")


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
    for foreign in ("[]", "{}", '{"model": "org/model"}'):
        manifest.write_text(foreign)
        with pytest.raises(DataError, match="is not one of a calibration set"):
            CalibrationSet.load_from_disk(tmp_path / "set")
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"manifest of .* is damaged"):
        CalibrationSet.load_from_disk(tmp_path / "set")


def test_a_page_that_cannot_be_decompressed_is_damage(built, tmp_path):
    """Arrow raises errors of many kinds, by what a changed byte belongs to; none gets through."""
    built.save_to_disk(tmp_path / "set")
    data = tmp_path / "set" / "calibration" / "train.parquet"
    whole, refusals = data.read_bytes(), []
    for place in range(4, len(whole), 32):
        data.write_bytes(whole[:place] + bytes(byte ^ 0xFF for byte in whole[place : place + 16]) + whole[place + 16 :])
        try:
            CalibrationSet.load_from_disk(tmp_path / "set")
        except DataError as error:
            refusals.append(str(error))
    assert any("Corrupt snappy compressed data" in refusal for refusal in refusals)
    assert {refusal.split(f"{tmp_path}/set")[0] for refusal in refusals} <= {"", "the sequences in "}
