"""Time and memory of everything around generation: `python benchmarks/scale.py --rollouts 100000 --tokens 10000`.

Made-up rollouts of log-normal length, 16 for each problem, are appended to a journal, read back, laid out as a table, saved,
loaded and selected from again. What one command does in one process is done in one process here, and the peak memory told after
each of its parts is that of the process so far.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.select import build_set, reselect
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.calibration.tables import hash_rollouts
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.formats import Origin
from optimum_ssgr.records import GradedRollout, Problem, Rollout, Verdict
from optimum_ssgr.rollouts.engine import Request
from optimum_ssgr.rollouts.store import open_rollout_store
from optimum_ssgr.stored import StoredText


SAMPLES = 16
PROMPT = tuple(range(100))


def write(folder: Path, rollouts: int, tokens: int) -> None:
    """Append made-up rollouts to a journal."""
    rng = np.random.default_rng(0)
    with timed("write the journal"), open_rollout_store(folder / "journal", {"model": "made up"}) as journal:
        for number in range(rollouts):
            length = int(rng.lognormal(np.log(tokens) - 0.32, 0.8))
            ids = rng.integers(0, 150_000, max(1, length), np.int32)
            journal.append(Rollout(f"p{number // SAMPLES}", number % SAMPLES, PROMPT, ids, True))


def read_and_select(folder: Path, rollouts: int, tokens: int) -> None:
    """Read the journal, select and save, with verdicts drawn at random and text of four characters a token."""
    rng = np.random.default_rng(1)
    rates = rng.random(rollouts // SAMPLES + 1)
    graded = []
    with timed("read the journal"), open_rollout_store(folder / "journal", {"model": "made up"}) as journal:
        for number in range(rollouts):
            name, sample = f"p{number // SAMPLES}", number % SAMPLES
            rollout = journal.find(Request(name, sample, PROMPT, 0))
            verdict = Verdict("1", bool(rng.random() < rates[number // SAMPLES]), True)
            text = StoredText(partial(make_text, len(rollout.response_ids)))
            graded.append(GradedRollout(Problem(name, "q", "1"), rollout, verdict, text))
    with timed("select"):
        select(Sources(graded), CalibrationConfig())
    origin = Origin(model="made up", model_commit=None, dtype="float32", tokenizer_hash="", versions={})
    with timed("select, lay out the tables and hash them"):
        built = build_set(Sources(graded), CalibrationConfig(), origin)
    with timed("save"):
        built.save_to_disk(folder / "set")


def select_again(folder: Path, rollouts: int, tokens: int) -> None:
    """Load the set and select by another strategy."""
    with timed("load, and check the hashes"):
        loaded = CalibrationSet.load_from_disk(folder / "set")
    with timed("hash the rollouts alone"):
        hash_rollouts(loaded.rollouts)
    with timed("select again by another strategy"):
        reselect(loaded, CalibrationConfig(strategy="obc"))


def make_text(tokens: int) -> str:
    """Return a text of four characters a token."""
    return "text" * tokens


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Print a row of a Markdown table: a part of the work, its seconds, and the peak GB of this process so far."""
    started, computed = time.perf_counter(), time.process_time()
    yield
    seconds, computed = time.perf_counter() - started, time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"| {part} | {seconds:,.0f} | {computed:,.0f} | {peak:.1f} |", flush=True)


def run(step: Callable[[Path, int, int], None], *arguments: object) -> None:
    """Run a step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(step, arguments)


def main() -> None:
    """Run the steps and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=1000, help="mean length")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{args.rollouts:,} rollouts of {args.tokens:,} tokens\n")
        print("| part | seconds | of processor | peak GB |\n|---|---|---|---|", flush=True)
        for step in (write, read_and_select, select_again):
            run(step, folder, args.rollouts, args.tokens)
        files = [path for path in folder.rglob("*") if path.is_file()]
        print("\n" + ", ".join(f"{path.relative_to(folder)} {path.stat().st_size / 1e6:,.0f} MB" for path in sorted(files)))


if __name__ == "__main__":
    main()
