"""`ssgr study` as a user types it: the same bits in one process or several, killed or not; mistakes found first."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


OPTIMUM_CLI = Path(sys.executable).with_name("optimum-cli")
COMMAND = [
    *("study", "out", "-m", "tiny-reasoner", "--problems", "tiny-reasoner:chain,variables,sum,count"),
    *("--num-problems", "60", "--samples-per-problem", "4", "--num-tokens", "500", "--max-new-tokens", "200"),
    *("--text", "tiny-reasoner", "--text-length", "160", "--strategies", "ssgr", "text", "--methods", "magnitude", "wanda"),
    *("--sparsities", "0.5", "--patterns", "2:4", "--seeds", "1", "--sweeps", "length", "--quiet"),
    *("--transfer-problems", "tiny-reasoner:walk", "--num-evaluation-problems", "6", "--evaluation-temperature", "0"),
]
CELLS = 2 + 2 * (2 + 3)


def start(folder, *arguments):
    command = [OPTIMUM_CLI, "ssgr", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *arguments):
    with start(folder, *arguments) as process:
        out, errors = process.communicate()
    return process.returncode, out, errors


def finished(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "out.journal" / "cells").glob("*.json")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    code, out, errors = run(folder, *COMMAND)
    assert (code, errors) == (0, "")
    assert "report and plots written to out" in out
    return folder / "out"


def test_what_is_written(alone):
    assert sorted(path.name for path in alone.iterdir()) == ["cells", "plots", "report.html", "report.json", "report.md"]
    text = (alone / "report.json").read_text()
    report = json.loads(text)
    assert len(list((alone / "cells").iterdir())) == 1 + CELLS
    assert len(report["rows"]) == 2 * CELLS
    assert list(report["settings"]["sets"].items()) == [
        ("tiny-reasoner:chain,variables,sum,count", 6),
        ("tiny-reasoner:walk", 6),
    ]
    budgets = {row["calibrated_on"]["tokens"] for row in report["rows"] if row["calibration"]}
    assert budgets == {500}
    lengths = {row["calibration"]: row["calibrated_on"]["mean_tokens"] for row in report["rows"] if row["calibration"]}
    assert lengths["length:shortest"] < lengths["length:longest"]
    assert all(row["sparsity"] == pytest.approx(0.5, abs=0.01) for row in report["rows"])
    assert str(alone.parent) not in text


def test_killed_with_two_processes_and_run_again_gives_the_same_report(tmp_path, alone):
    command = [*COMMAND, "--processes", "2"]
    with start(tmp_path, *command) as process:
        while len(finished(tmp_path)) < 4:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.communicate()  # ends only when the cells' processes, which share the pipes, have ended, too
    kept = finished(tmp_path)
    assert 4 <= len(kept) < 1 + CELLS
    assert not (tmp_path / "out").exists()
    rollouts = tmp_path / "rollouts.jsonl"
    os.link(tmp_path / "out.journal" / "rollouts" / "0" / "rollouts.jsonl", rollouts)
    generated = rollouts.read_bytes()

    code, _, errors = run(tmp_path, *command, "--evaluation-temperature", "0.5")
    assert code == 1
    assert "holds the beginning of another run: evaluation was" in errors.splitlines()[-1]

    code, _, errors = run(tmp_path, *command)
    assert code == 0, errors
    assert rollouts.read_bytes() == generated
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rollouts.jsonl"]
    for path, modified in kept.items():  # nothing finished was done again
        assert (tmp_path / "out" / "cells" / path.name).stat().st_mtime_ns == modified
    for path in (*alone.rglob("*.json"), alone / "report.html"):
        assert (tmp_path / "out" / path.relative_to(alone)).read_bytes() == path.read_bytes(), path


MISTAKES = {
    "unknown strategy": (["--strategies", "best"], 2, "unknown strategy 'best'"),
    "unknown sweep": (["--sweeps", "width"], 2, "unknown sweep 'width'; choose among difficulty, length"),
    "pattern that does not divide": (["--patterns", "2:5"], 2, "2:5 does not divide the 192 inputs"),
    "the same twice": (["--methods", "wanda", "wanda"], 2, "is named twice"),
    "no set to evaluate on": (["--problems", "open-r1/OpenR1-Math-220k"], 2, "name a set with --evaluation-problems"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(tmp_path, name):
    arguments, code, message = MISTAKES[name]
    found, out, errors = run(tmp_path, *COMMAND, *arguments)
    assert (found, out) == (code, "")
    assert message in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_sets_of_equal_size_or_none(tmp_path):
    """Found before anything is pruned."""
    code, _, errors = run(tmp_path, *COMMAND, "--num-problems", "3", "--num-tokens", "20000")
    assert code == 1
    assert "than 20,000 tokens to select from the rollouts of seed 0" in errors
    assert not list((tmp_path / "out.journal" / "cells").glob("*wanda*"))
