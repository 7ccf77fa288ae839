"""Several problem sets as a user names them: asked, selected from, recorded, and refused before any work."""

import json

import pytest

from optimum_ssgr import CalibrationConfig, CalibrationSet, SSGRPruner
from optimum_ssgr.problems.mixture import ProblemSet
from optimum_ssgr.problems.options import ProblemOptions
from optimum_ssgr.study.config import StudyConfig


MODEL = ["-m", "tiny-reasoner", "--max-new-tokens", "100", "--quiet"]
FEW = ["--samples-per-problem", "1", "--num-problems", "4", "--strategy", "rac", "--num-sequences", "6"]


@pytest.fixture
def own(tmp_path):
    rows = [{"q": f"Count the digit {n}.\na {n}\nb 4\nc {n}", "a": "2", "topic": "digits"} for n in (1, 2, 3)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "own.jsonl:question_column=q,answer_column=a,kind_column=topic,instruction=Count."


@pytest.mark.slow
def test_two_sets_make_one_calibration_set(tmp_path, own, cli):
    done = cli("calibrate", "set", *MODEL, *FEW, "--problems", own, "tiny-reasoner:sum", cwd=tmp_path)
    assert done.code == 0, done.err
    built = CalibrationSet.load_from_disk(tmp_path / "set")
    kinds = built.rollouts["kind"]
    assert (kinds.count("own.jsonl"), kinds.count("tiny-reasoner:sum"), len(kinds)) == (3, 4, 7)
    asked = dict(zip(kinds, built.rollouts["prompt_ids"], strict=True))
    assert len(asked["own.jsonl"]) > 0 and set(built.dataset["kind"]) <= set(kinds)
    manifest = built.manifest
    assert manifest.instruction is None  # it is not the same for all
    first, second = manifest.problems["sets"]
    assert first == {
        "source": "own.jsonl",
        "split": None,
        "read_from": [],
        "num_problems": 4,
        "question_column": "q",
        "answer_column": "a",
        "kind_column": "topic",
        "instruction": "Count.",
    }
    assert (second["source"], second["instruction"], second["read_from"]) == ("tiny-reasoner:sum", "", ["sum"])
    assert (
        f"--problems {own.replace(':', ':num_problems=4,', 1)} tiny-reasoner:sum:num"
        in (tmp_path / "set/README.md").read_text()
    )
    # The strategy can be another one without the problems.
    done = cli("select", "set", "again", "--strategy", "resp", "--num-sequences", "2", cwd=tmp_path)
    assert done.code == 0, done.err


def test_a_single_set_keeps_the_kinds_of_its_column(tmp_path, own, cli):
    flags = ["--strategy", "prompts", "--num-sequences", "3", "--dry-run"]
    done = cli("calibrate", "set", *MODEL, *flags, "--problems", own, cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (
            ["calibrate", "out", *MODEL, "--strategy", "ssgr", "--problems", "a:share=.3", "b"],
            "are met by the strategy cover, not by ssgr",
        ),
        (
            ["prune", "out", *MODEL, "--strategy", "self", "--problems", "a:share=.3", "b"],
            "are met by the strategy cover, not by self",
        ),
        (
            ["study", "out", *MODEL, "--num-tokens", "99", "--strategies", "self", "--problems", "a:share=.3", "b"],
            "are met by the strategy cover; add it to --strategies",
        ),
        (["calibrate", "out", *MODEL, "--problems", "a", "a"], "the problem set a is named twice"),
        (["calibrate", "out", *MODEL, "--problems", "a:colour=red", "b"], "unknown option colour of a"),
    ],
)
def test_mistakes_are_found_at_once(tmp_path, cli, arguments, mistake):
    done = cli(*arguments, cwd=tmp_path)
    assert (done.code, mistake in done.err) == (2, True), done.err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_in_python_names_sets_and_problems_will_do(reasoner, tmp_path, own, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pruner = SSGRPruner(*reasoner)
    config = CalibrationConfig(strategy="prompts", num_sequences=5)
    counted = ProblemSet("tiny-reasoner:count", ProblemOptions(limit=2))
    built = pruner.build_calibration([own, counted], config)
    assert len(built.dataset) == 5 and built.manifest.instruction is None
    texts = [reasoner[1].decode(ids) for ids in built.sequences]
    assert sum("Count." in text for text in texts) == 3
    same = pruner.build_calibration([own.replace("Count.", "Go."), counted], config, instruction="Not for sets with their own.")
    texts = [reasoner[1].decode(ids) for ids in same.sequences]
    assert sum("Go." in text for text in texts) == 3 and sum("Not for sets" in text for text in texts) == 2


def test_a_study_evaluates_on_every_set_that_it_calibrates_on():
    names = ("tiny-reasoner:sum", "tiny-reasoner:walk:num_problems=9,instruction=Walk.")
    settings = {"model": "tiny-reasoner", "calibration": CalibrationConfig(num_tokens=99), "evaluation": None}
    config = StudyConfig(problems=names, strategies=("self",), **settings)
    assert config.evaluation_names == ["tiny-reasoner:sum", "tiny-reasoner:walk"]
    assert [config.instruction_for(name) for name in config.evaluation_names] == ["", "Walk."]
    assert StudyConfig(problems="tiny-reasoner", strategies=("self",), **settings).evaluation_names == ["tiny-reasoner"]
