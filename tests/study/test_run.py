"""A study from Python, without the command line: what it returns and leaves, and what it refuses before any work."""

import json

import pytest

from optimum_ssgr import CalibrationConfig, PruningConfig, SamplingConfig, StudyConfig
from optimum_ssgr.errors import ConfigError
from optimum_ssgr.problems.options import ProblemOptions

from ..processes import started


SCRIPT = """
from optimum_ssgr import CalibrationConfig, SamplingConfig, StudyConfig, run_study
from optimum_ssgr.problems.options import ProblemOptions

config = StudyConfig(
    model="tiny-reasoner",
    problems="tiny-reasoner:sum",
    calibration=CalibrationConfig(num_sequences=None, num_tokens=200, samples_per_problem=2, max_new_tokens=160),
    evaluation=SamplingConfig(temperature=0.0, max_new_tokens=160),
    strategies=("self",),
    methods=("wanda+swaps", "magnitude"),
    seeds=1,
    num_evaluation_problems=4,
    reading=ProblemOptions(limit=8),
    keep_checkpoints=True,
)
report = run_study(config, "out")
print([(row["method"], row["calibration"], row["n"]) for row in report.rows])
"""


@pytest.mark.slow
def test_two_cells_from_python(tmp_path):
    with started(exec, SCRIPT, {}, cwd=tmp_path) as running:
        assert running.wait() == 0, running.err.read_text()
        printed = running.out.read_text()
    assert printed.splitlines()[-1] == "[('wanda+swaps', 'self', 4), ('magnitude', None, 4)]"
    out = tmp_path / "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert {path.name for path in (out / "cells").iterdir()} == {
        "dense.json",
        "wanda+swaps-0.5-self-0.json",
        "magnitude-0.5-none-0.json",
    }
    report = json.loads((out / "report.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["wanda+swaps", "magnitude"]
    assert "| Wanda + swaps | self |" in (out / "report.md").read_text()
    assert (out / "checkpoints" / "self" / "model.safetensors").is_file()  # of the first method alone
    assert len(list((out / "checkpoints").iterdir())) == 1
    assert (out / "calibration" / "rollouts" / "train.parquet").is_file()


def study(**changes):
    settings = {
        "model": "tiny-reasoner",
        "problems": "tiny-reasoner",
        "calibration": CalibrationConfig(num_sequences=None, num_tokens=200),
        "evaluation": SamplingConfig(),
        "strategies": ("self",),
        "reading": ProblemOptions(limit=8),
    }
    return StudyConfig(**settings | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "seeds must be at least 1, not 0"),
        ({"calibration": CalibrationConfig()}, "strategies are compared at equal numbers of tokens"),
        ({"strategies": ("text",)}, "the strategy text needs --text"),
        ({"methods": ("wanda", "wanda")}, "is named twice"),
        ({"sparsities": (1.2,)}, "sparsity must be at least 0 and below 1"),
        ({"transfer_problems": "tiny-reasoner"}, "both sets to evaluate on would be called tiny-reasoner"),
    ],
)
def test_settings_are_refused_where_they_are_made(changes, words):
    with pytest.raises(ConfigError, match=words):
        study(**changes)


def test_cells_and_seeds_follow_from_the_settings():
    made = study(calibration=CalibrationConfig(num_sequences=None, num_tokens=200, seed=5), seeds=2, patterns=("2:4",))
    assert [(cell.calibration, cell.target, cell.seed) for cell in made.cells] == [("self", "2:4", 5), ("self", "2:4", 6)]
    refined = study(methods=("wanda", "magnitude+blocks+swaps"), seeds=1)
    assert [cell.pruning for cell in refined.cells] == [
        PruningConfig(method="wanda", sparsity=0.5),
        PruningConfig(method="magnitude", sparsity=0.5, refine=("swaps", "blocks")),
    ]
    assert [cell.name for cell in refined.cells] == ["wanda-0.5-self-0", "magnitude+blocks+swaps-0.5-self-0"]
    with pytest.raises(ConfigError, match="unknown refinement 'rows'"):
        study(methods=("wanda+rows",))
