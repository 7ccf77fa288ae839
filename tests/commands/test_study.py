"""`ssgr study` as a user types it: the same bits in one process or several, stopped or not; mistakes found first."""

import json
import os
import signal
import sys
import time

import pytest
from optimum.commands.optimum_cli import main

from optimum_ssgr.study import workers

from .. import processes
from ..processes import started


COMMAND = [
    *("study", "out", "-m", "tiny-reasoner", "--problems", "tiny-reasoner:chain,variables,sum,count"),
    *("--num-problems", "16", "--samples-per-problem", "4", "--num-tokens", "300", "--max-new-tokens", "160"),
    *("--text", "tiny-reasoner", "--text-length", "160", "--strategies", "ssgr", "text", "--methods", "magnitude", "wanda"),
    *("--patterns", "2:4", "--seed", "2", "--seeds", "1", "--bands", "length"),
    *("--transfer-problems", "tiny-reasoner:walk", "--num-evaluation-problems", "4", "--evaluation-temperature", "0"),
]
CELLS = 1 + (2 + 3)


@pytest.fixture(scope="module")
def ssgr():
    """Run a command as `optimum-cli ssgr` does, without starting another process for it, and return its exit code.

    The study's own processes are forked, where those of `stop` are started as they are everywhere.
    """

    def run(folder, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers.multiprocessing, "get_context", lambda method: processes.serving())
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["optimum-cli", "ssgr", *arguments])
            patch.setenv("TQDM_DISABLE", "")  # which the command sets
            try:
                main()
            except SystemExit as end:
                return end.code
        return 0

    return run


def finished(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out.journal" / "cells").glob("*.json")}


def stop(folder, least, number, *arguments):
    """Run the study until some cells are finished and others begun; return its exit code, and what it says."""
    with started(processes.ssgr, *COMMAND, *arguments, cwd=folder) as running:
        while len(finished(folder)) < least:
            assert running.process.is_alive(), running.err.read_text()
            time.sleep(0.01)
        if number == signal.SIGINT:
            os.killpg(running.process.pid, number)  # as a terminal does
        else:
            running.send_signal(number)
        return running.wait(), running.out.read_text(), running.err.read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, ssgr):
    folder = tmp_path_factory.mktemp("alone")
    assert ssgr(folder, *COMMAND) == 0
    return folder / "out"


@pytest.mark.slow
def test_what_is_written(alone):
    assert sorted(path.name for path in alone.iterdir()) == ["cells", "plots", "report.html", "report.json", "report.md"]
    text = (alone / "report.json").read_text()
    report = json.loads(text)
    cells = {path.stem for path in (alone / "cells").iterdir()}
    assert len(cells) == 1 + CELLS
    assert {name.rpartition("-")[2] for name in cells - {"dense"}} == {"2"}  # the seed
    assert len(report["rows"]) == 2 * CELLS
    assert list(report["settings"]["sets"].items()) == [
        ("tiny-reasoner:chain,variables,sum,count", 4),
        ("tiny-reasoner:walk", 4),
    ]
    budgets = {row["calibrated_on"]["tokens"] for row in report["rows"] if row["calibration"]}
    assert budgets == {300}
    lengths = {row["calibration"]: row["calibrated_on"]["mean_tokens"] for row in report["rows"] if row["calibration"]}
    assert lengths["length:shortest"] < lengths["length:longest"]
    assert all(row["sparsity"] == pytest.approx(0.5, abs=0.01) for row in report["rows"])
    assert str(alone.parent) not in text


@pytest.mark.slow
def test_interrupted_in_two_processes_then_killed_and_run_again_gives_the_same_report(tmp_path, alone, ssgr, capfd):
    code, out, errors = stop(tmp_path, 2, signal.SIGINT, "--processes", "2", "--strategies", "ssgr")
    assert (code, out) == (130, "")
    assert errors.splitlines()[-1] == (
        "optimum-cli ssgr study: interrupted; finished cells are kept in out.journal. Run the same command to go on."
    )
    kept = finished(tmp_path)
    assert 2 <= len(kept) < CELLS
    rollouts = tmp_path / "rollouts.jsonl"
    os.link(tmp_path / "out.journal" / "rollouts" / "2" / "rollouts.jsonl", rollouts)
    generated = rollouts.read_bytes()

    stop(tmp_path, len(kept) + 1, signal.SIGKILL)  # with another strategy
    assert kept.items() < finished(tmp_path).items()
    kept = finished(tmp_path)
    assert len(kept) < 1 + CELLS
    assert not (tmp_path / "out").exists()

    capfd.readouterr()
    assert ssgr(tmp_path, *COMMAND, "--evaluation-temperature", "0.5") == 1
    assert "holds the beginning of another run: evaluation was" in capfd.readouterr().err.splitlines()[-1]

    assert ssgr(tmp_path, *COMMAND) == 0
    assert "report and plots written to out" in capfd.readouterr().out
    assert rollouts.read_bytes() == generated
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rollouts.jsonl"]
    for name, modified in kept.items():  # nothing finished was done again
        assert (tmp_path / "out" / "cells" / name).stat().st_mtime_ns == modified
    for path in (*alone.rglob("*.json"), alone / "report.html"):
        assert (tmp_path / "out" / path.relative_to(alone)).read_bytes() == path.read_bytes(), path


MISTAKES = {
    "unknown strategy": (["--strategies", "best"], 2, "unknown strategy 'best'"),
    "no engine": (
        ["--problems", "no/such", "--engine", "vlm"],
        2,
        "the engine must be transformers, vllm, sglang or addresses",
    ),
    "no batch": (["--problems", "no/such", "--batch-size", "0"], 2, "batch_size must be at least 1, not 0"),
    "unknown bands": (["--bands", "width"], 2, "unknown bands 'width'; choose among difficulty, length"),
    "bands of nothing": (["--methods", "magnitude"], 2, "--bands needs a method that calibrates"),
    "pattern that does not divide": (["--patterns", "2:5"], 2, "2:5 does not divide the 192 inputs"),
    "the same twice": (["--methods", "wanda", "wanda"], 2, "is named twice"),
    "prompt too long": (["--max-new-tokens", "1000"], 2, "exceed the model's context of 1024 tokens"),
    "questions that fill no set": (
        ["--strategies", "ssgr", "prompts", "--num-tokens", "9000"],
        1,
        "tokens by the strategy prompts, not of 9,000; take more questions, lower --num-tokens",
    ),
    "text that fills no set": (["--num-tokens", "5000000"], 1, "tokens by the strategy text, not of 5,000,000"),
    "text that fills no mixture": (
        ["--strategies", "mix", "--num-tokens", "5000000"],
        1,
        "tokens by the strategy mix, not of 5,000,000; take more text",
    ),
    "pairs of one": (["--strategies", "obc", "--max-per-problem", "1"], 2, "the strategy obc takes pairs of traces"),
    "one problem": (["--num-evaluation-problems", "1"], 1, "it takes at least 2 to know a standard error"),
    "no set to evaluate on": (["--problems", "open-r1/OpenR1-Math-220k"], 2, "name a set with --evaluation-problems"),
}


def test_two_files_of_one_name_are_refused(tmp_path, ssgr, capfd):
    files = [tmp_path / "math" / "test.jsonl", tmp_path / "logic" / "test.jsonl"]
    for path in files:
        path.parent.mkdir()
        path.touch()  # an empty one would be refused where it is read
    sets = ["--evaluation-problems", "math/test.jsonl", "--transfer-problems", "logic/test.jsonl"]
    assert ssgr(tmp_path, *COMMAND, *sets) == 2
    assert "both sets to evaluate on would be called test.jsonl in the report" in capfd.readouterr().err


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(tmp_path, name, ssgr, capfd):
    arguments, code, message = MISTAKES[name]
    found = ssgr(tmp_path, *COMMAND, *arguments)
    out, errors = capfd.readouterr()
    assert (found, out) == (code, "")
    assert message in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sets_of_equal_size_or_none(tmp_path, ssgr, capfd):
    """Found before anything is pruned."""
    assert ssgr(tmp_path, *COMMAND, "--num-problems", "3", "--num-tokens", "20000") == 1
    assert "than 20,000 tokens to select from the rollouts of seed 2" in capfd.readouterr().err
    assert not list((tmp_path / "out.journal" / "cells").glob("*wanda*"))
