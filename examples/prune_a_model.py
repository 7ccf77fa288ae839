"""Calibrate a model on traces it wrote itself, prune it, save it, and load it back with transformers alone."""

import argparse
from tempfile import TemporaryDirectory

from transformers import AutoModelForCausalLM

from optimum_ssgr import CalibrationConfig, PruningConfig, SamplingConfig, SSGRPruner, load_problems


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="tiny-reasoner", help="Hub id or folder (default: the embedded model)")
model_id = parser.parse_args().model

# The budget is small, so that this takes seconds; 128 sequences of a real model's traces are usual.
config = CalibrationConfig(strategy="self", samples_per_problem=4, max_new_tokens=300, num_sequences=None, num_tokens=3000)
pruner = SSGRPruner.from_pretrained(model_id)
calibration = pruner.build_calibration(load_problems("tiny-reasoner", limit=24), config)
right = calibration.rollouts["correct"]
print(f"{len(right)} rollouts, {sum(right)} of them right, {sum(calibration.dataset['num_tokens'])} tokens selected")

# Problems of the test split: none of them is among those that were calibrated on.
problems = load_problems("tiny-reasoner", split="test", limit=40)
greedy = SamplingConfig(temperature=0, max_new_tokens=300)
dense = pruner.evaluate(problems, greedy)
print(pruner.prune(calibration, PruningConfig(method="sparsegpt", sparsity=0.4)))  # in place
sparse = pruner.evaluate(problems, greedy)
low, high = sparse["accuracy_ci95"]
print(f"problems solved: dense {dense['accuracy']:.0%}, sparse {sparse['accuracy']:.0%}, 95 % interval {low:.0%} to {high:.0%}")

with TemporaryDirectory() as folder:
    pruner.save_pretrained(f"{folder}/sparse")
    loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/sparse")
zeros = sum(int((weight == 0).sum()) for name, weight in loaded.named_parameters() if name.endswith("proj.weight"))
print(f"loaded back with {zeros:,} zeros")
