import dataclasses
import json

import pytest
from datasets import load_dataset

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.funnel import count_kinds
from optimum_ssgr.calibration.select import build_set
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.commands.calibrate import print_funnel
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.formats import Origin
from optimum_ssgr.records import CalibrationSequence, Problem

from .test_strategies import graded, timed_out


ORIGIN = Origin(model="org/model", model_commit=None, dtype="float32", tokenizer_hash="0", versions={})


@pytest.fixture
def built():
    return make(CalibrationConfig(strategy="ssgr", num_sequences=4))


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


def of_kinds(kinds, solved):
    """Rollouts of lengths 10, 20, 30 and 40 to problems of some kinds, of which the first few are right."""
    return [
        dataclasses.replace(item, problem=dataclasses.replace(item.problem, kind=kinds[item.problem.id]))
        for item in graded(solved)
    ]


def test_the_funnel_counts_by_kind():
    items = of_kinds({"a": "sum", "b": "sum", "c": "walk", "d": None}, {"a": 1, "b": 3, "c": 4, "d": 0})
    chosen = [CalibrationSequence((7,) * 3, (1,) * 17, "self", "a", 0), CalibrationSequence((), (2,) * 60, "self", "c", 1)]
    text = CalibrationSequence((), (5,) * 1000, "text")
    found = CalibrationSet.build([*chosen, text], items, ORIGIN, CalibrationConfig(strategy="mix")).manifest.kinds
    # Correct with prompts of 3: a 13, b 13 23 33, c 13 23 33 43. Of the selected tokens of problems 20 are of a and 60 of c.
    assert found == {
        "sum": {"problems": 2, "correct": 4, "pass_rate": 0.5, "pool_share": 82 / 194, "selected_share": 0.25},
        "unknown": {"problems": 1, "correct": 0, "pass_rate": 0.0, "pool_share": 0.0, "selected_share": 0.0},
        "walk": {"problems": 1, "correct": 4, "pass_rate": 1.0, "pool_share": 112 / 194, "selected_share": 0.75},
    }


def test_a_kind_without_a_verdict_has_no_pass_rate():
    late = dataclasses.replace(timed_out("z", 0, 90), problem=Problem("z", "q", "a", kind="late"))
    found = count_kinds([*graded({"a": 1}), late], ())
    assert [(name, of["pass_rate"]) for name, of in found.items()] == [("late", None), ("unknown", 0.25)]


def test_one_kind_is_no_table_by_kind(built):
    assert built.manifest.kinds is None
    assert count_kinds(of_kinds({"a": "sum", "b": "sum"}, {"a": 1, "b": 2}), ()) is None
    assert count_kinds((), ()) is None


@pytest.mark.parametrize(("strategy", "tells"), [("self", True), ("rac", True), ("text", False)])
def test_a_kind_that_is_left_out_is_named(strategy, tells, caplog):
    """By strategies that take traces; that general text leaves all of them out is what it is for."""
    kinds = {"a": "sum", "b": "unsolved", **{f"w{number}": "walk" for number in range(50)}}
    items = of_kinds(kinds, dict.fromkeys(kinds, 4) | {"b": 0})
    sources = Sources(items, text_ids=range(100))
    config = CalibrationConfig(strategy=strategy, num_sequences=1, text_length=10)
    config = dataclasses.replace(config, seed=next(seed for seed in range(99) if takes(sources, config, seed) != {"a"}))
    build_set(sources, config, ORIGIN)
    assert ("the selection leaves out sum, which the model solves" in caplog.text) == tells
    assert ("take the strategy cover" in caplog.text) == tells and "unsolved" not in caplog.text
    caplog.clear()
    build_set(sources, dataclasses.replace(config, num_sequences=100, max_per_problem=4), ORIGIN)
    assert "leaves out" not in caplog.text


def takes(sources, config, seed):
    return {sequence.problem_id for sequence in select(sources, dataclasses.replace(config, seed=seed))}


def test_the_funnel_is_printed_with_a_table_by_kind(capsys):
    items = of_kinds({"a": "sum", "b": "sum", "c": "walk"}, {"a": 1, "b": 3, "c": 4})
    config = CalibrationConfig(strategy="self", num_sequences=None, num_tokens=100)
    built = CalibrationSet.build(select(Sources(items), config), items, ORIGIN, config)
    print_funnel(built.manifest)
    *_, ratio, heads, of_sum, of_walk = capsys.readouterr().out.splitlines()
    assert ratio.endswith("tokens generated for every token kept") and heads.startswith("kind  problems  correct traces")
    assert len(heads) == len(of_sum) == len(of_walk)
    assert of_sum.split()[:5] == ["sum", "2", "4", "50%", "42.3%"] and of_walk.split()[:5] == [
        "walk",
        "1",
        "4",
        "100%",
        "57.7%",
    ]
    assert sum(float(row.split()[-1][:-1]) for row in (of_sum, of_walk)) == pytest.approx(100, abs=0.1)


@pytest.mark.slow
def test_histograms_show_kinds_where_there_are_some(tmp_path):
    """Whatever they are called, and also where there are too many to show them all."""
    for number, names in enumerate((["$\\frac$", "x" * 80, None], [f"kind {number}" for number in range(30)])):
        kinds = {f"p{index}": name for index, name in enumerate(names)}
        items = of_kinds(kinds, dict.fromkeys(kinds, 2))
        config = CalibrationConfig(strategy="self", num_sequences=4)
        CalibrationSet.build(select(Sources(items), config), items, ORIGIN, config).save_to_disk(tmp_path / str(number))
        assert (tmp_path / str(number) / "histograms.png").read_bytes().startswith(b"\x89PNG")
        assert CalibrationSet.load_from_disk(tmp_path / str(number)).manifest.kinds.keys() == {
            name or "unknown" for name in names
        }


def test_histograms_are_drawn(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    assert (tmp_path / "set" / "histograms.png").read_bytes().startswith(b"\x89PNG")


def test_plain_datasets_reads_it(built, tmp_path):
    built.save_to_disk(tmp_path / "set")
    plain = load_dataset("parquet", data_dir=str(tmp_path / "set" / "rollouts"), split="train", cache_dir=str(tmp_path / "c"))
    assert plain.num_rows == 12
    assert sum(plain["correct"]) == 7


@pytest.mark.slow
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
