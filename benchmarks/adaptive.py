"""What adaptive sampling saves: `python benchmarks/adaptive.py --seeds 5`.

For every seed the same problems are sampled plainly, 16 rollouts each, and adaptively, until 12,000 tokens are selected; the
third row samples adaptively but never stops at the budget, which shows what leaving decided problems alone saves by itself.
`inside` is the share of selected tokens within the windows; the pruned models answer problems of the test split, greedily.
+- is the standard error over problems and seeds, in parentheses are 95 % intervals.
"""

import argparse
import copy
import dataclasses
from unittest.mock import patch

import numpy as np
from setting import BATCH_SIZE, CALIBRATION, EVALUATION

from optimum_ssgr import CalibrationConfig, PruningConfig, SSGRPruner
from optimum_ssgr.calibration import generate
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.intervals import estimate_difference, estimate_share, format_difference, format_share
from optimum_ssgr.problems.load import load_problems
from optimum_ssgr.reasoner import NAME


PLAIN = dataclasses.replace(CALIBRATION, samples_per_problem=16)
ADAPTIVE = dataclasses.replace(PLAIN, adaptive=True)


def calibrate(dense: SSGRPruner, problems: list, config: CalibrationConfig, whole: bool) -> tuple[object, float]:
    """Return a calibration set, and the share of its tokens inside the windows."""
    with patch.object(generate, "windows_meet_budget", (lambda *_: False) if whole else generate.windows_meet_budget):
        made = dense.build_calibration(problems, config, batch_size=BATCH_SIZE)
    inside = sum(row["num_tokens"] for row in made.dataset if row["selected_by"] == "ssgr")
    return made, inside / made.manifest.counts["tokens"]


def main() -> None:
    """Sample both ways, prune with both, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--asked", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    dense = SSGRPruner.from_pretrained(NAME)
    evaluation = load_problems(NAME, split="test", limit=args.num_problems)
    rows = {"plain": (PLAIN, False), "adaptive": (ADAPTIVE, False), "adaptive, all problems": (ADAPTIVE, True)}
    generated: dict[str, list[int]] = {name: [] for name in rows}
    inside: dict[str, list[float]] = {name: [] for name in rows}
    correct: dict[str, list[list[bool]]] = {name: [] for name in rows}
    for seed in range(args.seeds):
        problems = load_problems(NAME, split="train", limit=args.asked, seed=seed)
        for name, (config, whole) in rows.items():
            made, share = calibrate(dense, problems, dataclasses.replace(config, seed=seed), whole)
            generated[name].append(made.manifest.counts["generated_tokens"])
            inside[name].append(share)
            pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
            pruner.prune(made, PruningConfig(sparsity=0.5))
            graded = evaluate(pruner.model, pruner.tokenizer, evaluation, EVALUATION, batch_size=BATCH_SIZE)
            correct[name].append([item.verdict.correct for item in graded])
    scores = {name: np.array(found, dtype=float) for name, found in correct.items()}
    print("| sampling | tokens generated | for every token kept | saved | inside | problems solved | minus plain |")
    print("|---|---|---|---|---|---|---|")
    for name in rows:
        tokens = np.mean(generated[name])
        saved = 1 - tokens / np.mean(generated["plain"])
        solved, minus = estimate_share(scores[name]), estimate_difference(scores[name] - scores["plain"])
        compared = "" if name == "plain" else format_difference(minus.mean, minus.interval)
        print(
            f"| {name} | {tokens:,.0f} | {tokens / PLAIN.num_tokens:.1f} | {saved:.0%} | {np.mean(inside[name]):.0%} "
            f"| {format_share(solved.mean, solved.error, solved.interval)} | {compared} |"
        )


if __name__ == "__main__":
    main()
