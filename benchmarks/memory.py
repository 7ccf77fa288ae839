"""Prune a random-weight Llama whose weights are several times what streaming may hold, and compare the plan with what happens.

    python benchmarks/memory.py

For a run in memory (both modes) and for a streamed one: peak resident memory and seconds as `--dry-run` predicts them, and as a
process of its own then takes. The bound of a streamed run is one block, its statistics and one set of hidden states.
"""

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.select import describe_origin
from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.reasoner import NAME
from optimum_ssgr.records import CalibrationSequence


CLI = Path(sys.executable).with_name("optimum-cli")
RUNS = {"in memory, one pass": [], "in memory, two passes": ["--no-true-sequential"], "streamed": ["--streaming"]}


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Write the model, with the embedded reasoner's tokenizer, and random tokens as its calibration set."""
    model, tokenizer = load_model(NAME)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.blocks,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=args.hidden // 256,
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model", max_shard_size="200MB")
    tokenizer.save_pretrained(folder / "model")
    ids = torch.randint(0, len(tokenizer), (args.sequences, args.length)).tolist()
    sequences = [CalibrationSequence((), tuple(sequence), "random") for sequence in ids]
    config = CalibrationConfig(strategy="text")
    origin = describe_origin(model, tokenizer, {})
    CalibrationSet.build(sequences, [], origin, config).save_to_disk(folder / "calibration")


def measure(command: list[str]) -> tuple[str, float, float]:
    """Run a command and return its output, its seconds and its peak resident memory in GB."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return output, time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print one Markdown row per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("hidden", 1024), ("intermediate", 2816), ("blocks", 24), ("sequences", 16), ("length", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In another process: a command's peak memory counts that of the process which starts it.
        preparing = multiprocessing.get_context("spawn").Process(target=prepare, args=(folder, args))
        preparing.start()
        preparing.join()
        weights = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
        block = weights / args.blocks
        squares = 3 * args.hidden**2 + args.intermediate**2
        bound = block + 4 * squares + 4 * args.sequences * args.length * args.hidden
        print(f"weights {weights / 1e9:.2f} GB, {weights / bound:.1f} times the bound of {bound / 1e9:.3f} GB")
        print(json.dumps(vars(args)))
        print("| run | peak GB, predicted | measured | libraries alone | seconds, predicted | measured |")
        print("|---|---|---|---|---|---|")
        for number, (run, flags) in enumerate(RUNS.items()):
            paths = [folder / f"out{number}", "-m", folder / "model", "--calibration", folder / "calibration"]
            command = [str(CLI), "ssgr", "prune", *map(str, paths), *flags, "--quiet"]
            plan, _, _ = measure([*command, "--dry-run"])
            _, seconds, peak = measure(command)
            told, libraries = re.search(r"memory +([\d.]+) GB at most, ([\d.]+) GB", plan).groups()
            expected = re.search(r"takes +([\d,]+) s", plan)[1]
            print(f"| {run} | {told} | {peak:.2f} | {libraries} | {expected} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
