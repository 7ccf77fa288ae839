"""Tell which share of the measured matrix-product speed pruning a block with SparseGPT, in one pass, reaches, and where.

    python benchmarks/limit.py --threads 1

Operations are counted as the algorithms need them: the forward pass by PyTorch's own counter, the Hessian's upper triangle, one
Cholesky factorization and one triangular inverse, and the sweep over the columns not yet visited. The limit is their number
over the speed of a large float32 matrix product, measured before. Each part is also timed by itself,
in processor time; median (least-greatest) of the repeats.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from peers.setting import Setting, build_model
from torch.utils.flop_counter import FlopCounterMode

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.pruning.attention import use_short_attention
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.patterns import Unstructured
from optimum_ssgr.pruning.solvers.sparsegpt import factorize, sparsegpt
from optimum_ssgr.pruning.statistics import InputStatistics


def seconds(run: Callable[[], object], repeats: int, times: int = 1) -> list[float]:
    """Return the processor's seconds for a call, times what it is done for, in every repeat after one to warm up.

    What else runs on the machine lengthens them little; with several threads they are those of all threads together.
    """
    run()
    measured = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        measured.append(times * (time.process_time() - start))
    return measured


def as_row(name: str, operations: float, peak: float, taken: list[float]) -> str:
    """Lay one part out, times and shares as median (least-greatest)."""
    shares = sorted(operations / peak / value for value in taken)
    spread = f"{median(taken):.2f} ({min(taken):.2f}-{max(taken):.2f})"
    return (
        f"| {name} | {operations / 1e9:.1f} | {operations / peak:.2f} | {spread} "
        f"| {median(shares):.0%} ({shares[0]:.0%}-{shares[-1]:.0%}) |"
    )


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    square = torch.randn(2048, 2048)
    peak = 2 * 2048**3 / median(seconds(lambda: square @ square, args.repeats))
    setting = Setting()
    model = build_model(setting)
    tokens = torch.randint(setting.vocabulary, (setting.sequences, setting.length))
    count = tokens.numel()
    with FlopCounterMode(display=False) as counter:
        model.model(tokens[:4], use_cache=False)
    # The counter leaves out attention's products on the CPU: a causal model needs half of the scores and of what they weight.
    attended = setting.blocks * count * 4 * setting.length * setting.hidden / 2
    forward = counter.get_total_flops() * count / tokens[:4].numel() + attended

    attention = model.model.layers[0].self_attn
    projections = [layer.out_features for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    hidden, wide = setting.hidden, setting.intermediate
    # For every stage of a block its inputs and the outputs of the layers that share them.
    stages = [(hidden, projections), (hidden, [hidden]), (hidden, [wide, wide]), (wide, [hidden])]
    inputs = {columns: torch.randn(2048, columns) for columns in (hidden, wide)}

    def accumulate(columns: int) -> InputStatistics:
        statistics = InputStatistics(columns, True, torch.device("cpu"))
        for _ in range(count // 2048):
            statistics.add(inputs[columns])
        return statistics

    hessians = {columns: accumulate(columns) for columns in inputs}
    for statistics in hessians.values():
        statistics.finish()
    factors = {columns: factorize(statistics.hessian, 0.01) for columns, statistics in hessians.items()}
    weights = [(columns, [torch.randn(rows, columns) for rows in outputs]) for columns, outputs in stages]
    parts = {
        "forward": (forward, lambda: [model.model(tokens[i : i + 4], use_cache=False) for i in range(0, len(tokens), 4)], 1),
        "Hessian": (sum(count * n**2 for n, _ in stages), lambda: [accumulate(n) for n, _ in stages], setting.blocks),
        "factorization": (
            sum(2 * n**3 / 3 for n, _ in stages),
            lambda: [factorize(hessians[n].hessian, 0.01) for n, _ in stages],
            setting.blocks,
        ),
        "sweep": (
            sum(sum(rows) * n**2 for n, rows in stages),
            lambda: [sparsegpt(group, *factors[n], Unstructured(0.5)) for n, group in weights],
            setting.blocks,
        ),
    }
    print(f"matrix products reach {peak / 1e9:.0f} GFLOP/s with {args.threads} thread(s); {setting}")
    print("| part | GFLOP | CPU seconds at that speed | CPU seconds | share |\n|---|---|---|---|---|")
    operations = 0.0
    for name, (per_time, run, times) in parts.items():
        operations += per_time * times
        with use_short_attention():  # as pruning does
            taken = seconds(run, args.repeats, times)
        print(as_row(name, per_time * times, peak, taken), flush=True)
    sequences = tokens.tolist()
    taken = seconds(lambda: prune_layerwise(model, sequences, PruningConfig(sparsity=0.5, true_sequential=True)), args.repeats)
    print(as_row("everything", operations, peak, taken))


if __name__ == "__main__":
    main()
