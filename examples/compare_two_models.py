"""Ask a dense model and a pruned one the same problems, and say whether the difference is more than noise."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from optimum_ssgr import EvaluationConfig, PruningConfig, SamplingConfig, SSGRPruner, compare_models
from optimum_ssgr.problems.options import ProblemOptions


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="tiny-reasoner", help="Hub id or folder (default: the embedded model)")
model_id = parser.parse_args().model

with TemporaryDirectory() as folder:
    sparse = f"{folder}/sparse"
    pruner = SSGRPruner.from_pretrained(model_id)
    pruner.prune(config=PruningConfig(method="magnitude", pattern="2:4"))  # the one method that needs no calibration
    pruner.save_pretrained(sparse)
    comparison = compare_models(
        EvaluationConfig(
            models=(sparse,),
            baseline=model_id,
            problems=("tiny-reasoner",),
            sampling=SamplingConfig(temperature=0, max_new_tokens=300),
            reading=ProblemOptions(limit=40),
        )
    )
for row in comparison.rows:
    low, high = row["accuracy_ci95"]
    print(f"{Path(row['model']).name}: {row['accuracy']:.0%} ({low:.0%} to {high:.0%}) solved, ", end="")
    print(f"{row['mean_tokens']:.0f} tokens, {row['truncated']:.0%} truncated")
# The difference is paired by problem, so its interval is narrower than the two intervals above suggest.
low, high = comparison.rows[-1]["difference_ci95"]
print(f"difference {comparison.rows[-1]['difference']:+.0%}, 95 % interval {low:+.0%} to {high:+.0%}")
