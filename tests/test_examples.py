"""The examples run as they are, on the embedded reasoner, and what they print is true."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def printed(monkeypatch, capsys):
    def run(name):
        monkeypatch.setattr(sys, "argv", [name])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_run_here():
    run = re.findall(r'"(\w+\.py)"', Path(__file__).read_text())
    assert sorted(run) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def test_prune_a_model(printed):
    text = printed("prune_a_model.py")
    assert "3000 tokens selected" in text
    pruned, weights = re.search(r"([\d,]+) of ([\d,]+) weights in 28 linear layers are zero", text).groups()
    assert int(pruned.replace(",", "")) == pytest.approx(0.4 * int(weights.replace(",", "")), rel=1e-3)
    assert f"loaded back with {pruned} zeros" in text
    dense, sparse = map(int, re.search(r"dense (\d+)%, sparse (\d+)%", text).groups())
    assert dense > 85 and sparse > 60


def test_select_again(printed):
    text = printed("select_again.py")
    rates = {name: float(rate) for name, rate in re.findall(r"^(\w+) +\d+ sequences, 2000 tokens, .* ([\d.]+)$", text, re.M)}
    assert rates.keys() == {"cover", "ssgr", "self"}
    assert rates["ssgr"] < rates["self"]  # challenging problems are those that are solved less often


def test_compare_two_models(printed):
    text = printed("compare_two_models.py")
    dense, sparse = (int(re.search(rf"^{name}: (\d+)%", text, re.M)[1]) for name in ("tiny-reasoner", "sparse"))
    difference, low, high = map(int, re.search(r"difference (\S+)%, 95 % interval (\S+)% to (\S+)%", text).groups())
    assert abs(sparse - dense - difference) <= 1  # all three are rounded
    assert low < difference < high < 0  # 2:4 by magnitude costs this model most of what it can


def test_custom_strategy(printed):
    found = dict(
        re.findall(r"calibrated on (\w+): (\d+)% \(\d+% to \d+%\) of the problems solved", printed("custom_strategy.py"))
    )
    assert found.keys() == {"mine", "self"}
    assert min(map(int, found.values())) > 50


def test_custom_solver(printed):
    text = printed("custom_solver.py")
    errors = {name: float(error) for name, error in re.findall(r"^(\w[\w ]*?) +50% zeros, .* ([\d.]+)$", text, re.M)}
    assert errors.keys() == {"magnitude", "wanda", "sparsegpt", "refitted wanda"}
    assert errors["refitted wanda"] < errors["wanda"]  # the best weights on the same mask
    assert errors["sparsegpt"] < errors["wanda"]


def test_recover_and_quantize():
    """In a process of its own, which finds torchao where `make test` has put it."""
    where = Path(sys.prefix, "torchao")
    assert where.exists(), "make .venv/torchao"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), str(where)])}
    command = [sys.executable, EXAMPLES / "recover_and_quantize.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    before, after = map(float, re.search(r"([\d.]+) before, ([\d.]+) after, in nats per token", text).groups())
    assert after < before
    kept = re.search(r"all ([\d,]+) zeros are kept", text)[1]
    zeros, quantized, lost = re.search(r"^([\d,]+) zeros before and ([\d,]+) after quantizing, (\d+) lost", text, re.M).groups()
    assert (kept, lost) == (zeros, "0")
    assert int(quantized.replace(",", "")) >= int(zeros.replace(",", ""))  # rounding makes zeros of small weights
    full, small = map(float, re.search(r"^([\d.]+) MB before and ([\d.]+) MB after", text, re.M).groups())
    assert small < 0.35 * full  # the embedding stays in 32 bits
    assert "generates 3 tokens" in text
