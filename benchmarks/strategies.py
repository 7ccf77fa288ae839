"""Compare the calibration strategies on the embedded reasoner, at equal numbers of calibration tokens.

    python benchmarks/strategies.py --num-problems 400 --seeds 10 --sparsity 0.5

For every seed the dense model writes one set of rollouts; each strategy selects 12,000 tokens from it (or from general text),
SparseGPT prunes with them, and the pruned models answer the same problems of the test split with greedy decoding. +- is the
standard error over problems and seeds, in parentheses are 95 % intervals; differences are paired. The second table tells each
family of problems apart: its share of the calibration tokens, and how many of its problems the pruned models solve. Two more
rows lift one of SSGR's windows.
"""

import argparse
import copy
import dataclasses
from collections import Counter

import numpy as np
from setting import BATCH_SIZE, CALIBRATION, CALIBRATION_PROBLEMS, EVALUATION

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.calibration.strategies import STRATEGIES
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.intervals import estimate_difference, estimate_share, format_difference, format_share
from optimum_ssgr.evaluation.metrics import summarize
from optimum_ssgr.evaluation.perplexity import perplexity
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME
from optimum_ssgr.reasoner.tasks import FAMILIES
from optimum_ssgr.reasoner.text import documents
from optimum_ssgr.reasoner.train import text_windows


ROWS = {
    **{name: {"strategy": name} for name in STRATEGIES},
    "ssgr, any length": {"length_window": (0.0, 100.0)},
    "ssgr, any difficulty": {"pass_rate": (0.0, 1.0)},
}


def main() -> None:
    """Select, prune, evaluate and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="which to compare with ssgr")
    args = parser.parse_args()
    rows = list(dict.fromkeys(["ssgr", *args.rows]))
    dense = SSGRPruner.from_pretrained(NAME)
    problems = load_problems(NAME, split="test", limit=args.num_problems)
    windows = text_windows(dense.tokenizer, "test")[:64]
    correct: dict[str, list[list[bool]]] = {name: [] for name in rows}
    shares: dict[str, Counter[str]] = {name: Counter() for name in rows}
    others: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rows}
    for seed in range(args.seeds):
        asked = load_problems(NAME, split="train", limit=CALIBRATION_PROBLEMS, seed=seed)
        rollouts = dense.generate_rollouts(asked, dataclasses.replace(CALIBRATION, seed=seed), batch_size=BATCH_SIZE)
        for name in rows:
            config = dataclasses.replace(CALIBRATION, **ROWS[name], seed=seed)
            calibration = dense.build_calibration(asked, config, rollouts=rollouts, text=documents("train"))
            if calibration.manifest.counts["tokens"] != CALIBRATION.num_tokens:
                raise SystemExit(f"{name} gives {calibration.manifest.counts['tokens']} tokens only; ask more problems.")
            for row in calibration.dataset:
                shares[name][str(row["problem_id"]).split("-")[0]] += row["num_tokens"]
            pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
            pruner.prune(calibration, PruningConfig(sparsity=args.sparsity))
            graded = evaluate(pruner.model, pruner.tokenizer, problems, EVALUATION, batch_size=BATCH_SIZE)
            correct[name].append([item.verdict.correct for item in graded])
            summary = summarize(graded)
            others[name].append((summary["mean_tokens"], summary["truncated"], perplexity(pruner.model, windows)))
    scores = {name: np.array(found, dtype=float) for name, found in correct.items()}
    print(
        "| strategy | problems solved | ssgr minus this | tokens | truncated | perplexity on text |\n|---|---|---|---|---|---|"
    )
    for name, found in scores.items():
        solved, minus = estimate_share(found), estimate_difference(scores["ssgr"] - found)
        shown = format_share(solved.mean, solved.error, solved.interval)
        compared = "" if name == "ssgr" else format_difference(minus.mean, minus.interval)
        tokens, truncated, text_perplexity = np.mean(others[name], axis=0)
        print(f"| {name} | {shown} | {compared} | {tokens:.0f} | {truncated:.1%} | {text_perplexity:.1f} |")
    families = np.array([problem.source for problem in sorted(problems, key=lambda problem: problem.id)])  # as graded
    print(f"\n| strategy | {' | '.join(FAMILIES)} |\n|---|{'---|' * len(FAMILIES)}")
    for name, found in scores.items():
        cells = [
            f"{shares[name][family] / shares[name].total():.0%} / {found[:, families == family].mean():.0%}"
            for family in FAMILIES
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
