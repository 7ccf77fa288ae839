"""Prune one layer with a method of your own, and compare its error with that of the package's methods.

A solver is a function from a weight matrix, statistics of its inputs and a pattern to the pruned weights. The one here takes
Wanda's mask and fits the weights that stay to the dense layer's outputs, row by row. The names that `PruningConfig.method`
takes are fixed; how to add one for whole models is in CONTRIBUTING.md.
"""

import argparse

import torch

from optimum_ssgr import CalibrationConfig, SSGRPruner, load_problems
from optimum_ssgr.pruning.patterns import Pattern, Unstructured
from optimum_ssgr.pruning.solvers.magnitude import magnitude
from optimum_ssgr.pruning.solvers.sparsegpt import factorize, sparsegpt
from optimum_ssgr.pruning.solvers.wanda import wanda
from optimum_ssgr.pruning.statistics import InputStatistics


def refitted_wanda(weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Keep what Wanda keeps, and solve the least-squares problem of every row on it."""
    pruned = wanda(weight, hessian.diagonal(), pattern)
    for row, dense in zip(pruned, weight, strict=True):
        kept = row != 0
        row[kept] = torch.linalg.solve(hessian[kept][:, kept], (hessian @ dense)[kept])
    return pruned


def relative_error(pruned: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor) -> float:
    """Return the squared error of the layer's outputs, as a share of their squared size."""
    difference = pruned - weight
    return float(((difference @ hessian) * difference).sum() / ((weight @ hessian) * weight).sum())


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="tiny-reasoner", help="Hub id or folder (default: the embedded model)")
model_id = parser.parse_args().model

# What the layer sees while the model reads its own right traces.
config = CalibrationConfig(strategy="self", samples_per_problem=4, max_new_tokens=300, num_sequences=None, num_tokens=3000)
pruner = SSGRPruner.from_pretrained(model_id, dtype="float32")
calibration = pruner.build_calibration(load_problems("tiny-reasoner", limit=24), config)
layer = pruner.model.model.layers[1].mlp.up_proj
statistics = InputStatistics(layer.in_features, full=True, device=layer.weight.device)
hook = layer.register_forward_pre_hook(lambda _, inputs: statistics.add(inputs[0].flatten(0, -2)))
with torch.inference_mode():
    for sequence in calibration.sequences:
        pruner.model(torch.tensor([sequence], device=pruner.model.device))
hook.remove()
statistics.finish()

weight, pattern = layer.weight.detach(), Unstructured(0.5)
hessian = statistics.hessian + 0.01 * statistics.squared_norms.mean() * torch.eye(layer.in_features, device=weight.device)
solved = {
    "magnitude": magnitude(weight, pattern),
    "wanda": wanda(weight, hessian.diagonal(), pattern),
    "sparsegpt": sparsegpt([weight], *factorize(statistics.hessian.clone(), 0.01), pattern)[0],
    "refitted wanda": refitted_wanda(weight, hessian, pattern),
}
print(f"{tuple(weight.shape)} weights, {statistics.tokens} tokens, half of the weights pruned")
for name, pruned in solved.items():
    error = relative_error(pruned, weight, hessian)
    print(f"{name:<15} {(pruned == 0).float().mean():.0%} zeros, relative squared error {error:.4f}")
