"""The same seed draws the same problems, whichever command asks."""

import json
from argparse import ArgumentParser

import pytest

from optimum_ssgr.commands import configs
from optimum_ssgr.commands.calibrate import CalibrateCommand
from optimum_ssgr.commands.checks import read_inputs
from optimum_ssgr.commands.evaluate import EvaluateCommand
from optimum_ssgr.commands.study import StudyCommand
from optimum_ssgr.evaluation.prepare import load_evaluation_set
from optimum_ssgr.study.inputs import read_inputs as read_study_inputs


MODEL = ["-m", "tiny-reasoner", "--max-new-tokens", "20"]


@pytest.fixture
def sets(tmp_path):
    """Eighty problems, and a set to evaluate on that holds the first forty of them."""
    rows = [{"problem": f"What comes after {n}?", "answer": str(n + 1)} for n in range(80)]
    for name, some in (("all", rows), ("first", rows[:40])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return str(tmp_path / "all.jsonl"), str(tmp_path / "first.jsonl")


def parse(command, *arguments):
    parser = ArgumentParser()
    command.parse_args(parser)
    return parser.parse_args([*MODEL, *arguments])


def calibrated_on(*arguments):
    args = parse(CalibrateCommand, "out", "--strategy", "prompts", *arguments)
    return read_inputs(args, configs.calibration_config(args))


def test_calibrate_evaluate_and_study_draw_alike(sets, tmp_path):
    everything, first = sets
    few = ["--num-problems", "15", "--seed", "4"]
    drawn = calibrated_on("--problems", everything, *few).problems
    args = parse(EvaluateCommand, "--problems", everything, *few)
    assert load_evaluation_set(configs.problem_options(args), everything, args.seed) == drawn
    assert {int(problem.answer) > 40 for problem in drawn} == {True, False}

    apart = calibrated_on("--problems", everything, "--exclude", first, *few)
    assert len(apart.problems) == 15  # left out first, and drawn from the forty that stay
    assert all(int(problem.answer) > 40 for problem in apart.problems)
    assert apart.metadata["problems"]["excluded"]["exact"] == 40

    studied = [
        "out",
        "--problems",
        everything,
        "--evaluation-problems",
        first,
        "--num-tokens",
        "300",
        "--strategies",
        "prompts",
    ]
    config = configs.study_config(parse(StudyCommand, *studied, *few, "--seeds", "2"))
    inputs = read_study_inputs(config, tmp_path / "journal")
    assert inputs.calibration_problems[4] == apart.problems != inputs.calibration_problems[5]


def test_problems_of_a_file_are_asked_for_a_box_in_every_command(sets):
    everything, first = sets
    for command, rest in (
        (CalibrateCommand, ["out", "--problems", everything]),
        (EvaluateCommand, ["--problems", everything]),
        (StudyCommand, ["out", "--problems", everything, "--evaluation-problems", first]),
    ):
        for instruction, expected in ([], "boxed{}"), (["--instruction", ""], ""):
            found = configs.problem_options(parse(command, *rest, *instruction)).instruction_for(everything)
            assert expected in found and bool(found) == bool(expected)
