"""Time and memory of everything around generation: `python benchmarks/scale.py --rollouts 100000 --tokens 1000`.

Made-up rollouts of log-normal length, 16 for each problem, are appended to a journal, read back, selected from and saved as a
calibration set, each in a process of its own so that its peak memory can be told.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.select import build_set, reselect
from optimum_ssgr.calibration.strategies import Sources
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.formats import Origin
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict
from optimum_ssgr.rollouts.engine import Request
from optimum_ssgr.rollouts.store import open_rollout_store


SAMPLES = 16
PROMPT = tuple(range(100))


def write(folder: Path, rollouts: int, tokens: int) -> None:
    """Append made-up rollouts to a journal."""
    rng = np.random.default_rng(0)
    with open_rollout_store(folder / "journal", {"model": "made up"}) as journal:
        for number in range(rollouts):
            length = int(rng.lognormal(np.log(tokens) - 0.32, 0.8))
            ids = rng.integers(0, 150_000, max(1, length)).tolist()
            journal.append(Rollout(f"p{number // SAMPLES}", number % SAMPLES, PROMPT, ids, True))


def read_and_select(folder: Path, rollouts: int, tokens: int) -> None:
    """Read the journal, select and save, with verdicts drawn at random and text of four characters a token."""
    rng = np.random.default_rng(1)
    rates = rng.random(rollouts // SAMPLES + 1)
    graded = []
    with open_rollout_store(folder / "journal", {"model": "made up"}) as journal:
        for number in range(rollouts):
            name, sample = f"p{number // SAMPLES}", number % SAMPLES
            rollout = journal.find(Request(name, sample, PROMPT, 0))
            verdict = Verdict("1", bool(rng.random() < rates[number // SAMPLES]), True)
            graded.append(GradedRollout(Problem(name, "q", "1"), rollout, verdict, "text" * len(rollout.response_ids)))
    config = CalibrationConfig()
    origin = Origin(model="made up", model_commit=None, dtype="float32", tokenizer_hash="", versions={})
    build_set(Sources(graded), config, origin).save_to_disk(folder / "set")


def select_again(folder: Path, rollouts: int, tokens: int) -> None:
    """Load the set and select by another strategy."""
    reselect(CalibrationSet.load_from_disk(folder / "set"), CalibrationConfig(strategy="obc"))


def measure(step: Callable[[Path, int, int], None], *arguments: object) -> tuple[float, float]:
    """Run a step in a process of its own; return seconds and peak GB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_timed, (step, *arguments))


def _timed(step: Callable[[Path, int, int], None], *arguments: object) -> tuple[float, float]:
    started = time.perf_counter()
    step(*arguments)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Run the steps and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=1000, help="mean length")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{args.rollouts:,} rollouts of {args.tokens:,} tokens\n| step | seconds | peak GB |\n|---|---|---|")
        for step in (write, read_and_select, select_again):
            seconds, memory = measure(step, folder, args.rollouts, args.tokens)
            print(f"| {step.__name__.replace('_', ' ')} | {seconds:,.0f} | {memory:.1f} |", flush=True)
        sizes = {path.name: path.stat().st_size / 1e6 for path in folder.rglob("*") if path.is_file()}
        print(f"\njournal {sizes['rollouts.jsonl']:,.0f} MB")


if __name__ == "__main__":
    main()
