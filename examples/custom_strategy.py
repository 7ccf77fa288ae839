"""Calibrate on a selection of your own: here the longest right trace of every problem, the hardest problems first.

Pruning takes any data set with a column `input_ids`, and perhaps `token_weights`. Such a set has no manifest, so the checkpoint
does not say where it comes from; a strategy with a name and provenance is added to the package, see CONTRIBUTING.md.
"""

import argparse
from collections.abc import Iterator, Sequence

from datasets import Dataset

from optimum_ssgr import CalibrationConfig, PruningConfig, SamplingConfig, SSGRPruner, load_problems
from optimum_ssgr.calibration.windows import compute_pass_rates, cut_to_budget
from optimum_ssgr.records import CalibrationSequence, GradedRollout


def longest_of_the_hardest(rollouts: Sequence[GradedRollout]) -> Iterator[CalibrationSequence]:
    """Yield one trace a problem, best first; the budget is applied by whoever takes them."""
    rates = compute_pass_rates(rollouts)
    longest: dict[str, GradedRollout] = {}
    for item in rollouts:
        best = longest.get(item.problem.id)
        if item.verdict.correct and (best is None or len(item.rollout.response_ids) > len(best.rollout.response_ids)):
            longest[item.problem.id] = item
    for item in sorted(longest.values(), key=lambda item: (rates[item.problem.id], item.problem.id)):
        yield CalibrationSequence(item.rollout.prompt_ids, item.rollout.response_ids, "longest of the hardest", item.problem.id)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="tiny-reasoner", help="Hub id or folder (default: the embedded model)")
model_id = parser.parse_args().model

config = CalibrationConfig(strategy="self", samples_per_problem=4, max_new_tokens=300, num_sequences=None, num_tokens=3000)
pruner = SSGRPruner.from_pretrained(model_id)
rollouts = pruner.generate_rollouts(load_problems("tiny-reasoner", limit=32), config)
mine = cut_to_budget(longest_of_the_hardest(rollouts), config.num_sequences, config.num_tokens)
theirs = pruner.select_calibration(rollouts, config)

problems = load_problems("tiny-reasoner", split="test", limit=40)
greedy = SamplingConfig(temperature=0, max_new_tokens=300)
sets = {"mine": Dataset.from_dict({"input_ids": [sequence.input_ids for sequence in mine]}), "self": theirs}
for name, calibration in sets.items():
    pruner = SSGRPruner.from_pretrained(model_id)  # afresh: pruning changes the model
    pruner.prune(calibration, PruningConfig(method="sparsegpt", sparsity=0.5))
    found = pruner.evaluate(problems, greedy)
    low, high = found["accuracy_ci95"]
    print(f"calibrated on {name}: {found['accuracy']:.0%} ({low:.0%} to {high:.0%}) of the problems solved")
