"""`--damage` from the command line: measured by `prune`, kept with the rollouts, used again by `select`."""

import json

import pyarrow.parquet
import pytest


SMALL = ["--problems", "tiny-reasoner:sum,chain", "--num-problems", "12", "--samples-per-problem", "2"]
LENGTHS = ["--num-tokens", "600", "--max-new-tokens", "120"]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory, cli):
    """A checkpoint whose calibration set was selected by damage."""
    folder = tmp_path_factory.mktemp("damage") / "sparse"
    done = cli("prune", folder, "-m", "tiny-reasoner", *SMALL, *LENGTHS, "--damage", "--method", "wanda", "--sparsity", "0.6")
    assert done.code == 0, done.err
    return folder


@pytest.mark.slow
def test_the_damage_is_kept_with_the_rollouts(sparse):
    manifest = json.loads((sparse / "calibration" / "manifest.json").read_text())
    assert manifest["calibration"]["strategy"] == "cover"
    assert manifest["damage"]["pruning"]["method"] == "wanda"
    rollouts = pyarrow.parquet.read_table(sparse / "calibration" / "rollouts" / "train.parquet").to_pylist()
    assert [row["damage"] is not None for row in rollouts] == [row["correct"] for row in rollouts]
    assert not sparse.with_name("sparse.journal").exists()


def test_what_was_measured_selects_again(sparse, tmp_path, cli):
    done = cli("select", sparse / "calibration", tmp_path / "again", "--num-tokens", "400")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert manifest["calibration"]["damage"] and manifest["counts"]["tokens"] == 400
    first = json.loads((sparse / "calibration" / "manifest.json").read_text())
    assert manifest["damage"] == first["damage"]


@pytest.mark.slow
def test_a_set_that_is_there_can_be_selected_from_for_another_pruning(sparse, tmp_path, cli):
    arguments = ["-m", "tiny-reasoner", "--calibration", sparse / "calibration", "--damage", "--pattern", "2:4"]
    planned = cli("prune", tmp_path / "other", *arguments, "--dry-run")
    assert planned.code == 0, planned.err
    assert "damage       one more pruning, and two forward passes" in planned.out
    done = cli("prune", tmp_path / "other", *arguments, "--streaming")
    assert done.code == 0, done.err
    kept = json.loads((tmp_path / "other" / "calibration" / "manifest.json").read_text())
    assert kept["damage"]["pruning"]["pattern"] == "2:4"
    assert kept["calibration"]["num_tokens"] == 600


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["calibrate", "out", *SMALL, "--damage"], "prune with --calibration SET --damage"),
        (["prune", "out", "--calibration", "any", "--damage", "--method", "magnitude"], "needs no calibration set"),
        (["prune", "out", *SMALL, "--damage", "--strategy", "self"], "strategy self"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(arguments, said, tmp_path, cli):
    done = cli(arguments[0], *arguments[1:], "-m", "tiny-reasoner", cwd=tmp_path)
    assert done.code == 2
    assert said in done.err and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
