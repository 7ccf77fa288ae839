"""Compare ways to prune by what is left of the embedded reasoner: `modes` or `allocation`.

    python benchmarks/variants.py modes --num-problems 400 --seeds 15

Every row is the same dense model, pruned with the same calibration sets (`ssgr`, 12,000 tokens, one set per seed) and evaluated
on the same problems of the dev split with greedy decoding. +- is the standard error over problems and seeds, in parentheses are
95 % intervals; differences are paired.
"""

import argparse
import copy

import numpy as np
from setting import BATCH_SIZE, EVALUATION, calibrate

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.intervals import estimate_difference, estimate_share, format_difference, format_share
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME


# Of every two rows, the second is compared with the first.
VARIANTS = {
    "modes": {
        "sparsegpt 50 % two passes": PruningConfig(sparsity=0.5, true_sequential=False),
        "sparsegpt 50 % one pass": PruningConfig(sparsity=0.5, true_sequential=True),
        "sparsegpt 2:4 two passes": PruningConfig(pattern="2:4", true_sequential=False),
        "sparsegpt 2:4 one pass": PruningConfig(pattern="2:4", true_sequential=True),
        "wanda 50 % two passes": PruningConfig(method="wanda", sparsity=0.5, true_sequential=False),
        "wanda 50 % one pass": PruningConfig(method="wanda", sparsity=0.5, true_sequential=True),
    },
    "allocation": {
        "sparsegpt 50 % uniform": PruningConfig(sparsity=0.5),
        "sparsegpt 50 % owl": PruningConfig(sparsity=0.5, allocation="owl"),
        "sparsegpt 60 % uniform": PruningConfig(sparsity=0.6),
        "sparsegpt 60 % owl": PruningConfig(sparsity=0.6, allocation="owl"),
    },
}


def main() -> None:
    """Prune, evaluate and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", choices=VARIANTS)
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=15)
    args = parser.parse_args()
    dense = SSGRPruner.from_pretrained(NAME)
    problems = load_problems(NAME, split="dev", limit=args.num_problems)
    rows = VARIANTS[args.variants]
    correct: dict[str, list[list[bool]]] = {name: [] for name in rows}
    for seed in range(args.seeds):
        calibration = calibrate(dense, seed)
        for name, config in rows.items():
            pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
            pruner.prune(calibration, config)
            graded = evaluate(pruner.model, pruner.tokenizer, problems, EVALUATION, batch_size=BATCH_SIZE)
            correct[name].append([item.verdict.correct for item in graded])
    scores = {name: np.array(found, dtype=float) for name, found in correct.items()}
    print("| pruned by | problems solved |\n|---|---|")
    for name, found in scores.items():
        solved = estimate_share(found)
        print(f"| {name} | {format_share(solved.mean, solved.error, solved.interval)} |")
    print("\n| difference | points |\n|---|---|")
    names = list(rows)
    for first, second in zip(names[::2], names[1::2], strict=True):
        difference = estimate_difference(scores[second] - scores[first])
        print(f"| {second} - {first} | {format_difference(difference.mean, difference.interval)} |")


if __name__ == "__main__":
    main()
