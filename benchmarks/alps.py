"""Compare the solvers by the reconstruction error they leave, layer by layer, on the embedded reasoner.

    python benchmarks/alps.py

Every solver gets the same dense weights and the same Hessian H of each of the 28 linear layers, from the reasoner's own traces
(`ssgr`, 12,000 tokens). The error is tr(D H Dᵀ) / tr(W H Wᵀ) with D what pruning changed: the squared change of the layer's
outputs, relative to the outputs. The table gives the mean over the layers, and how many layers ALPS beats SparseGPT in.
"""

from functools import partial

import torch
from setting import calibrate
from torch import nn

from optimum_ssgr import SSGRPruner
from optimum_ssgr.pruning.patterns import NofM, Pattern, Unstructured
from optimum_ssgr.pruning.solvers.alps import alps, decompose
from optimum_ssgr.pruning.solvers.magnitude import magnitude
from optimum_ssgr.pruning.solvers.sparsegpt import factorize, sparsegpt
from optimum_ssgr.pruning.solvers.wanda import wanda
from optimum_ssgr.pruning.statistics import InputStatistics
from optimum_ssgr.reasoner import NAME


DAMPING = 0.01
PATTERNS = {f"{percent} %": Unstructured(percent / 100) for percent in (50, 60, 70, 80)} | {"2:4": NofM(2, 4)}
SOLVERS = ("magnitude", "wanda", "sparsegpt", "alps")


@torch.no_grad()
def gather(pruner: SSGRPruner) -> dict[str, tuple[torch.Tensor, InputStatistics]]:
    """Return every linear layer's weights and the statistics of its inputs in the dense model."""
    found: dict[str, tuple[torch.Tensor, InputStatistics]] = {}
    for name, module in pruner.model.model.layers.named_modules():
        if isinstance(module, nn.Linear):
            statistics = InputStatistics(module.in_features, True, torch.device("cpu"))
            module.register_forward_pre_hook(partial(lambda into, _, args: into.add(args[0].flatten(0, 1)), statistics))
            found[name] = (module.weight.data, statistics)
    for sequence in calibrate(pruner, 0).sequences:
        pruner.model(torch.tensor([sequence]))
    for _, statistics in found.values():
        statistics.finish()
    return found


def prune(solver: str, weight: torch.Tensor, statistics: InputStatistics, pattern: Pattern) -> torch.Tensor:
    """Prune one layer."""
    if solver == "magnitude":
        return magnitude(weight, pattern)
    if solver == "wanda":
        return wanda(weight, statistics.squared_norms, pattern)
    if solver == "sparsegpt":
        return sparsegpt([weight], *factorize(statistics.hessian, DAMPING), pattern)[0]
    return alps(weight, decompose(statistics.hessian, DAMPING), pattern)


def main() -> None:
    """Print one Markdown row per pattern."""
    layers = gather(SSGRPruner.from_pretrained(NAME))
    print(f"| pattern | {' | '.join(SOLVERS)} | alps below sparsegpt |\n|{'---|' * (len(SOLVERS) + 2)}")
    for name, pattern in PATTERNS.items():
        errors = []
        for weight, statistics in layers.values():
            hessian = statistics.hessian.double()
            whole = (weight.double() @ hessian * weight).sum()
            changes = [prune(solver, weight, statistics, pattern).double() - weight for solver in SOLVERS]
            errors.append([float((change @ hessian * change).sum() / whole) for change in changes])
        means = torch.tensor(errors).mean(0)
        wins = sum(alps_error < sparsegpt_error for *_, sparsegpt_error, alps_error in errors)
        print(f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} | {wins} of {len(errors)} |", flush=True)


if __name__ == "__main__":
    main()
