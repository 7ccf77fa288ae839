"""How often the 95 % intervals hold the truth: `python benchmarks/coverage.py --repeats 1000`.

Made-up verdicts whose truth is known: every seed has a rate of its own, from a beta distribution with the given mean and
standard deviation; of some verdicts the problem's difficulty decides, of the others chance. Every seed answers the same
problems, and so do both models of a difference, whose seeds are their own. Cells are per cent for 2, 3 and 5 seeds; the last
column is one model with one response to every problem. Below stand the least and the most that two other intervals on the same
verdicts hold the truth: by the normal quantile, and by the unbiased variance of the two-way layout with its own quantile.
"""

import argparse
import math
from itertools import product

import numpy as np

from optimum_ssgr.evaluation.intervals import Variance, estimate_difference, estimate_share, student_quantile


SEEDS = (2, 3, 5)
DEVIATIONS = (0.0, 0.02, 0.05)
PROBLEMS = (30, 200, 1000)
TRUTHS = ((0.03,), (0.2,), (0.5,), (0.9,), (0.97,), (0.5, 0.5), (0.5, 0.4), (0.95, 0.9))


def draw_rates(rng: np.random.Generator, mean: float, deviation: float, seeds: int) -> np.ndarray:
    """Draw one rate per seed."""
    if not deviation:
        return np.full(seeds, mean)
    both = mean * (1 - mean) / deviation**2 - 1
    return rng.beta(mean * both, (1 - mean) * both, seeds)


def draw_verdicts(rng: np.random.Generator, rates: np.ndarray, difficulty: np.ndarray, decided: float) -> np.ndarray:
    """Draw verdicts, float [seeds, problems]: right where the difficulty, or else a number by chance, is below the rate."""
    drawn = rng.random((len(rates), len(difficulty)))
    hurdles = np.where(
        drawn < decided, difficulty, (drawn - decided) / (1 - decided)
    )  # what is left of one draw is uniform, too
    return (hurdles < rates[:, None]).astype(float)


def unbiased_half_width(values: np.ndarray) -> float:
    """Half width by the unbiased variance of a two-way layout, in which chance counts once."""
    seeds, problems = values.shape
    parts = Variance.of(values)
    residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    chance = float((residual**2).sum()) / ((seeds - 1) * (problems - 1) * values.size)
    over_seeds = max(parts.over_seeds - chance, 0.0)
    squares = parts.over_problems**2 / (problems - 1) + over_seeds**2 / (seeds - 1)
    total = parts.over_problems + over_seeds
    return student_quantile(total**2 / squares) * math.sqrt(total) if squares else 0.0


def cover(
    rng: np.random.Generator,
    means: tuple[float, ...],
    deviation: float,
    problems: int,
    seeds: int,
    decided: float,
    repeats: int,
) -> np.ndarray:
    """Return how often the interval holds the truth, one by the normal quantile, and one by the unbiased variance."""
    truth = means[0] - sum(means[1:])
    held = np.zeros(3)
    for _ in range(repeats):
        difficulty = rng.random(problems)
        verdicts = [draw_verdicts(rng, draw_rates(rng, mean, deviation, seeds), difficulty, decided) for mean in means]
        values = verdicts[0] - sum(verdicts[1:])
        found = estimate_share(values) if len(means) == 1 else estimate_difference(values)
        away = abs(found.mean - truth)
        unbiased = seeds > 1 and away <= unbiased_half_width(values)
        held += (found.interval[0] <= truth <= found.interval[1], away <= 1.96 * found.error, unbiased)
    return 100 * held / repeats


def main() -> None:
    """Simulate, and print a Markdown table for every share of verdicts that difficulty decides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    for decided in (0.5, 0.0):
        others: dict[int, list[np.ndarray]] = {seeds: [] for seeds in SEEDS}
        print(f"\nDifficulty decides {decided:.0%} of the verdicts:\n")
        print("| truth | problems | " + " | ".join(f"seeds vary by {of:g}" for of in DEVIATIONS) + " | one seed |")
        print("|---|---|" + "---|" * (len(DEVIATIONS) + 1))
        for means, problems in product(TRUTHS, PROBLEMS):
            cells = []
            for deviation in DEVIATIONS:
                found = [cover(rng, means, deviation, problems, seeds, decided, args.repeats) for seeds in SEEDS]
                cells.append(" / ".join(f"{ours:.1f}" for ours, *_ in found))
                for seeds, of in zip(SEEDS, found, strict=True):
                    others[seeds].append(of[1:])
            alone, *_ = cover(rng, means, 0.0, problems, 1, decided, args.repeats)
            truth = " - ".join(f"{mean:g}" for mean in means)
            print(f"| {truth} | {problems:,} | {' | '.join(cells)} | {alone:.1f} |", flush=True)
        print()
        for number, name in enumerate(("normal quantile", "unbiased variance")):
            ranges = (
                f"{min(of[number] for of in found):.1f} to {max(of[number] for of in found):.1f}" for found in others.values()
            )
            print(f"{name}: {' / '.join(ranges)}  ")


if __name__ == "__main__":
    main()
