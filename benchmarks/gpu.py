"""Time pruning of random-weight models of the shapes of 1.5B and 7B reasoning models on a GPU: seconds per block and in total.

    python benchmarks/gpu.py --shapes 1.5b 7b

Models are Qwen2 in bfloat16, with statistics and solvers in float32. TF32 is off, unless `--tf32` allows it for the products of
float32 matrices, which makes Hessians less exact. The weights are made on the device, so that only pruning is timed. Runs on
the CPU too, for a smoke check: `--device cpu --shapes tiny --sequences 4 --length 64`.
"""

import argparse
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch
import transformers
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from optimum_ssgr.config import METHODS, PruningConfig
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.weights import ResidentWeights


# Hidden size, width of the feed-forward layers, blocks, heads, heads of keys and values.
SHAPES = {"tiny": (64, 160, 2, 4, 2), "1.5b": (1536, 8960, 28, 12, 2), "7b": (3584, 18944, 28, 28, 4)}


def build(shape: str, device: torch.device) -> Qwen2ForCausalLM:
    """Make a model of random weights on a device."""
    hidden, intermediate, blocks, heads, shared = SHAPES[shape]
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=32768,
        use_cache=False,
    )
    torch.manual_seed(0)
    with device:
        return Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


class TimedWeights(ResidentWeights):
    """Notes how long every block was held, which is while it was pruned."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def onload_block(self, name: str, block: nn.Module) -> Iterator[None]:
        """Hold a block and time it."""
        start = now()
        with super().onload_block(name, block):
            yield
        self.seconds.append(now() - start)


def now() -> float:
    """Return the time once the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1.5b", "7b"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["wanda", "sparsegpt"])
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--true-sequential", action="store_true", help="run every block once (default: twice)")
    parser.add_argument("--tf32", action="store_true")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else platform.processor() or "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"- {name}, {versions}, bfloat16, TF32 {'on' if args.tf32 else 'off'}")
    print(f"- {args.sequences} x {args.length} tokens, {'one pass' if args.true_sequential else 'two passes'}, 50 %\n")
    print("| shape | method | seconds per block, median (least-greatest) | total seconds | peak memory [GiB] |")
    print("|---|---|---|---|---|")
    sequences = torch.randint(8192, (args.sequences, args.length)).tolist()
    for shape in args.shapes:
        for method in args.methods:
            model = build(shape, args.device)
            if args.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            weights, start = TimedWeights(), now()
            config = PruningConfig(method=method, sparsity=0.5, true_sequential=args.true_sequential)
            prune_layerwise(model, sequences, config, weights=weights)
            blocks, total = weights.seconds, now() - start
            peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if args.device.type == "cuda" else "-"
            times = f"{median(blocks):.2f} ({min(blocks):.2f}-{max(blocks):.2f})"
            print(f"| {shape} | {method} | {times} | {total:.1f} | {peak} |", flush=True)
            del model


if __name__ == "__main__":
    main()
