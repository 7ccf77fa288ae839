"""`optimum-cli ssgr demo`: the main job on the embedded reasoner, next to the same model pruned with general text."""

import copy
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CalibrationConfig, PruningConfig, SamplingConfig
from ..errors import ConfigError
from .base import SSGRSubcommand, say
from .flags import add_output


if TYPE_CHECKING:
    from ..pruner import SSGRPruner
    from ..records import GradedRollout, Problem


STRATEGIES = ("ssgr", "self", "text")
METHODS = ("sparsegpt", "wanda")
SEEDS = (0, 1, 2)
# Chosen on the dev split (see benchmarks/RESULTS.md), where the pruned models still differ from dense and from guessing.
SPARSITY = 0.5
CALIBRATION_PROBLEMS = 640
CALIBRATION = CalibrationConfig(
    num_sequences=None, num_tokens=12000, samples_per_problem=8, max_new_tokens=400, text_length=160
)
EVALUATION = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=400)
TEXT_WINDOWS = 64
BATCH_SIZE = 128


class DemoCommand(SSGRSubcommand):
    """Calibrate, prune, save, reload and evaluate; write report.json, a plot, a checkpoint for each strategy and a set."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the command's flags."""
        add_output(parser)
        parser.add_argument(
            "--sparsity", type=float, default=SPARSITY, help="share of weights to remove (default: %(default)s)"
        )
        parser.add_argument("--split", default="test", choices=("dev", "test"), help="problems to evaluate on (default: test)")
        parser.add_argument("--num-problems", type=int, default=400, help="problems to evaluate on (default: %(default)s)")

    def execute(self, args: Namespace) -> None:
        """Run the experiment and write its folder."""
        if args.num_problems < 2:
            raise ConfigError(f"num_problems must be at least 2, not {args.num_problems}.")
        configs = {method: PruningConfig(method=method, sparsity=args.sparsity) for method in METHODS}
        if args.dry_run:
            say(f"calibrates   {', '.join(STRATEGIES)} with {CALIBRATION.num_tokens:,} tokens, seeds {SEEDS}")
            say(f"prunes       {', '.join(METHODS)} at {args.sparsity:.0%}")
            say(f"evaluates    {args.num_problems} problems of the {args.split} split")
            say(f"writes       {args.output}")
            return
        from ..evaluation.plots import plot_comparison
        from ..files import new_folder
        from ..problems.load import load_problems
        from ..reasoner import NAME

        with new_folder(args.output) as folder:
            problems = load_problems(NAME, split=args.split, limit=args.num_problems)
            report = run(problems, configs, folder / "checkpoints")
            report["command"] = (
                f"optimum-cli ssgr demo OUT --sparsity {args.sparsity} --split {args.split} --num-problems {args.num_problems}"
            )
            (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
            plot_comparison(report["dense"], report["rows"], folder / "accuracy.png")
        say(as_text(report))
        say(f"\nreport, plot, checkpoints and a calibration set written to {args.output}")


def run(problems: "list[Problem]", configs: dict[str, PruningConfig], checkpoints: Path) -> dict[str, Any]:
    """Prune with every method, strategy and seed, and evaluate.

    The first SparseGPT models go through a checkpoint, and the set of own traces that they share is kept beside them.

    Args:
        problems: Problems to evaluate on; none of them is used for calibration.
        configs: Pruning settings by method.
        checkpoints: Folder for one checkpoint per strategy.
    """
    import numpy as np

    from ..evaluation.evaluate import evaluate
    from ..evaluation.metrics import mean_over_seeds, summarize
    from ..evaluation.perplexity import perplexity
    from ..pruner import SSGRPruner
    from ..reasoner import NAME
    from ..reasoner.train import text_windows

    def measure(pruner: "SSGRPruner") -> "tuple[dict[str, Any], list[GradedRollout]]":
        graded = evaluate(pruner.model, pruner.tokenizer, problems, EVALUATION, batch_size=BATCH_SIZE)
        return summarize(graded) | {"text_perplexity": perplexity(pruner.model, windows)}, graded

    dense = SSGRPruner.from_pretrained(NAME)
    windows = text_windows(dense.tokenizer, "test")[:TEXT_WINDOWS]
    dense_summary, _ = measure(dense)
    summaries: dict[tuple[str, str], list[dict[str, Any]]] = {(m, s): [] for m in METHODS for s in STRATEGIES}
    correct: dict[tuple[str, str], list[list[bool]]] = {key: [] for key in summaries}
    for seed in SEEDS:
        calibrations = calibrate(dense, seed)
        if seed == SEEDS[0]:
            calibrations["ssgr"].save_to_disk(checkpoints.parent / "calibration")
        for method, strategy in summaries:
            pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
            report = pruner.prune(calibrations[strategy], configs[method])
            if seed == SEEDS[0] and method == METHODS[0]:
                pruner.save_pretrained(checkpoints / strategy)
                pruner = SSGRPruner.from_pretrained(str(checkpoints / strategy))
            summary, graded = measure(pruner)
            summaries[method, strategy].append(summary | {"sparsity": report.sparsity})
            correct[method, strategy].append([item.verdict.correct for item in graded])

    rows = []
    for (method, strategy), found in summaries.items():
        accuracy, error = mean_over_seeds(np.array(correct[method, strategy], dtype=float))
        means = {name: float(np.mean([summary[name] for summary in found])) for name in found[0]}
        counts = {"problems": len(problems), "samples": len(problems) * len(SEEDS), "calibration_seeds": len(SEEDS)}
        rows.append({"strategy": strategy, "method": method} | means | counts | {"accuracy": accuracy, "accuracy_se": error})
    differences = []
    for method in METHODS:
        ours, *others = (np.array(correct[method, strategy], dtype=float) for strategy in STRATEGIES)
        for strategy, theirs in zip(STRATEGIES[1:], others, strict=True):
            difference, error = mean_over_seeds(ours - theirs)
            differences.append({"method": method, "strategy": strategy, "ssgr_minus_this": difference, "se": error})
    return {"dense": dense_summary, "rows": rows, "differences": differences, "versions": _versions()}


def calibrate(dense: "SSGRPruner", seed: int) -> dict[str, Any]:
    """Make one calibration set per strategy, of equal size: from the rollouts on fresh problems, and from general text."""
    import dataclasses

    from ..problems.load import load_problems
    from ..reasoner import NAME
    from ..reasoner.text import documents

    settings = dataclasses.replace(CALIBRATION, seed=seed)
    problems = load_problems(NAME, split="train", limit=CALIBRATION_PROBLEMS, seed=seed)
    rollouts = dense.generate_rollouts(problems, settings, batch_size=BATCH_SIZE)
    return {
        name: dense.build_calibration(
            problems, dataclasses.replace(settings, strategy=name), rollouts=rollouts, text=documents("train")
        )
        for name in STRATEGIES
    }


def _versions() -> dict[str, str]:
    import platform

    import torch
    import transformers

    from .. import __version__

    return {
        "optimum-ssgr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def as_text(report: dict[str, Any]) -> str:
    """Lay the report out as a table."""
    lines = [f"{'method':<10} {'calibrated on':<14} {'accuracy':>16} {'mean tokens':>12} {'truncated':>10} {'text ppl':>9}"]
    dense = report["dense"] | {"method": "dense", "strategy": "-"}
    for row in (dense, *report["rows"]):
        accuracy = f"{row['accuracy']:.1%} +- {row['accuracy_se']:.1%}"
        lines.append(
            f"{row['method']:<10} {row['strategy']:<14} {accuracy:>16} {row['mean_tokens']:>12.0f} "
            f"{row['truncated']:>10.1%} {row['text_perplexity']:>9.1f}"
        )
    for item in report["differences"]:
        difference = f"{100 * item['ssgr_minus_this']:+.1f} points +- {100 * item['se']:.1f}"
        lines.append(f"{item['method']}: ssgr - {item['strategy']} = {difference}")
    return "\n".join(lines)
