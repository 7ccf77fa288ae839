"""What recovery brings back: `python benchmarks/recover.py` on the embedded reasoner, at 60 %, 70 % and 2:4.

For every seed the dense model writes and selects its own traces, which prune it and then, all right ones, train what is left
with the zeros kept. The table gives problems solved on held-out problems by the dense, the pruned and the recovered model,
with standard errors over problems and seeds, the 95 % interval of what the recovered model has lost against the dense one,
paired by problem, trace perplexity before and after on held-out traces, and seconds of training.

`--teacher` also teaches the dense model's scores. Small: `--targets "60 %" --seeds 1 --problems 64 --evaluate 100 --epochs 2`.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from setting import BATCH_SIZE, CALIBRATION, EVALUATION

from optimum_ssgr import PruningConfig, RecoveryConfig, SSGRPruner, load_problems, recover
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.intervals import estimate_difference, estimate_share, format_difference, format_share
from optimum_ssgr.reasoner import NAME


TARGETS = {"60 %": {"sparsity": 0.6}, "70 %": {"sparsity": 0.7}, "2:4": {"pattern": "2:4"}}


def solve(checkpoint: str, count: int) -> list[bool]:
    """Tell of every held-out problem whether a model solves it."""
    pruner = SSGRPruner.from_pretrained(checkpoint)
    problems = load_problems(NAME, split="test", limit=count)
    return [item.verdict.correct for item in evaluate(pruner.model, pruner.tokenizer, problems, EVALUATION, 1, BATCH_SIZE)]


def run(folder: Path, target: str, seed: int, args: argparse.Namespace) -> dict[str, list[bool] | float]:
    """Prune and recover with the traces of one seed, and measure both models."""
    sparse, recovered = folder / f"sparse-{seed}", folder / f"recovered-{seed}"
    pruner = SSGRPruner.from_pretrained(NAME)
    config = dataclasses.replace(CALIBRATION, strategy="cover", samples_per_problem=args.samples, seed=seed)
    problems = load_problems(NAME, split="train", limit=args.problems, seed=seed)
    journal = folder.parent / f"rollouts-{seed}"  # the same for all targets
    calibration = pruner.build_calibration(problems, config, batch_size=BATCH_SIZE, journal_dir=journal)
    pruner.prune(calibration, PruningConfig(method=args.method, **TARGETS[target]))
    pruner.save_pretrained(sparse)
    settings = RecoveryConfig(epochs=args.epochs, learning_rate=args.learning_rate, seed=seed)
    began = time.perf_counter()
    report = recover(str(sparse), calibration, recovered, settings, teacher=NAME if args.teacher else None)
    seconds = time.perf_counter() - began
    measured = report.recovery.held_out
    return {
        "seconds": seconds,
        "traces": report.recovery.traces,
        "before": measured["trace_nll"] - measured["trace_nll_rise"],
        "after": measured["trace_nll"],
        "pruned": solve(str(sparse), args.evaluate),
        "recovered": solve(str(recovered), args.evaluate),
    }


def share(scores: list[list[bool]]) -> str:
    """Write the share of problems solved, with its standard error over problems and seeds."""
    found = estimate_share(np.array(scores, dtype=float))
    return format_share(found.mean, found.error, found.interval)


def main() -> None:
    """Print one row per target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=640, help="to write traces of (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="traces of each (default: %(default)s)")
    parser.add_argument("--evaluate", type=int, default=500, help="held-out problems (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--teacher", action="store_true", help="teach the dense model's scores, too")
    args = parser.parse_args()
    dense = solve(NAME, args.evaluate)
    print(f"{args.method}, {args.seeds} seeds, {args.evaluate} problems, dense {share([dense])}")
    heads = ("target", "traces", "pruned", "recovered", "against dense (95 %)", "trace perplexity (nats)", "seconds")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    with TemporaryDirectory() as name:
        for number, target in enumerate(args.targets):
            found = [run(Path(name) / str(number), target, seed, args) for seed in range(args.seeds)]
            pruned, recovered = ([result[key] for result in found] for key in ("pruned", "recovered"))
            lost = estimate_difference(np.array(recovered, dtype=float) - np.array(dense, dtype=float))
            of_all = {key: np.mean([result[key] for result in found]) for key in ("traces", "before", "after", "seconds")}
            print(
                f"| {target} | {of_all['traces']:,.0f} | {share(pruned)} | {share(recovered)} | "
                f"{format_difference(lost.mean, lost.interval)} | {of_all['before']:.3f} to {of_all['after']:.3f} | "
                f"{of_all['seconds']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
