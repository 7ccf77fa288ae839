"""Prune a random-weight Llama whose weights are several times what streaming may hold, and compare the plan with what happens.

    python benchmarks/memory.py
    python benchmarks/memory.py --model MODEL --length 1000 --llmcompressor-python ~/peers/llmc/bin/python

For a run in memory (both modes) and for a streamed one: peak resident memory and seconds as `--dry-run` predicts them, and as a
process of its own then takes. The bound of a streamed run is one block, its statistics and one set of hidden states. With
`--model` it is the model of a folder that is pruned, on random tokens, too; llm-compressor loads, prunes and saves the same.
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
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.select import describe_origin
from optimum_ssgr.checkpoints.load import load_model, load_skeleton, load_tokenizer
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.reasoner import NAME
from optimum_ssgr.records import CalibrationSequence


CLI = Path(sys.executable).with_name("optimum-cli")
TOKENS = "tokens.json"
RUNS = {"in memory, one pass": [], "in memory, two passes": ["--no-true-sequential"], "streamed": ["--streaming"]}


def make_model(folder: Path, args: argparse.Namespace) -> None:
    """Write a model of random weights with the embedded reasoner's tokenizer."""
    _, tokenizer = load_model(NAME)
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
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="200MB")
    tokenizer.save_pretrained(folder)


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Write random tokens as a calibration set and as JSON, and the model where none is given."""
    if args.model is None:
        make_model(folder / "model", args)
    source = str(args.model or folder / "model")
    skeleton, tokenizer = load_skeleton(source), load_tokenizer(source)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(tokenizer), (args.sequences, args.length), generator=generator).tolist()
    (folder / TOKENS).write_text(json.dumps(ids))
    sequences = [CalibrationSequence((), tuple(sequence), "random") for sequence in ids]
    origin = describe_origin(skeleton, tokenizer, {})
    CalibrationSet.build(sequences, [], origin, CalibrationConfig(strategy="text")).save_to_disk(folder / "calibration")


def measure_peer(python: Path, model: Path, folder: Path) -> str:
    """Have llm-compressor load, prune and save the model, and return a row on it."""
    threads = str(torch.get_num_threads())
    os.environ |= {"PYTHONPATH": str(Path(__file__).parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
    pruned = [model, folder / TOKENS, folder / "llm-compressor", "sparsegpt", "0.5"]
    _, seconds, processed, peak = measure(list(map(str, [python.absolute(), "-m", "peers.llm_compressor", *pruned])))
    return f"| llm-compressor | | {peak:.2f} | | | {seconds:.0f} | {processed:.0f} |"


def measure(command: list[str]) -> tuple[str, float, float, float]:
    """Run a command and return its output, its seconds, the processor's for it, and its peak resident memory in GB."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return output, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print one Markdown row per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("hidden", 1024), ("intermediate", 2816), ("blocks", 24), ("sequences", 16), ("length", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--model", type=Path, help="folder of the model to prune; a random one is made when left out")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS, help="which to measure (default: all)")
    parser.add_argument("--llmcompressor-python", type=Path, help="Python of the environment that llm-compressor is in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In another process: a command's peak memory counts that of the process which starts it.
        preparing = multiprocessing.get_context("spawn").Process(target=prepare, args=(folder, args))
        preparing.start()
        preparing.join()
        model = args.model or folder / "model"
        config = AutoConfig.from_pretrained(model)
        hidden, intermediate = config.hidden_size, config.intermediate_size
        weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        outside = 4 * config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
        block = (weights - outside) / config.num_hidden_layers
        squares = 3 * hidden**2 + intermediate**2
        bound = block + 4 * squares + 4 * args.sequences * args.length * hidden
        print(f"weights {weights / 1e9:.2f} GB, {weights / bound:.1f} times the bound of {bound / 1e9:.3f} GB")
        print(json.dumps(vars(args) | {"runs": list(args.runs)}, default=str))
        print("| run | peak GB, predicted | measured | libraries alone | seconds, predicted | measured | CPU time |")
        print("|---|---|---|---|---|---|---|")
        for number, run in enumerate(args.runs):
            paths = [folder / f"out{number}", "-m", model, "--calibration", folder / "calibration"]
            command = [str(CLI), "ssgr", "prune", *map(str, paths), *RUNS[run], "--quiet"]
            plan, *_ = measure([*command, "--dry-run"])
            _, seconds, processed, peak = measure(command)
            told, libraries = re.search(r"memory +([\d.]+) GB at most, ([\d.]+) GB", plan).groups()
            expected = re.search(r"takes +([\d,]+) s", plan)[1]
            measured = f"{libraries} | {expected} | {seconds:.0f} | {processed:.0f}"
            print(f"| {run} | {told} | {peak:.2f} | {measured} |", flush=True)
        if args.llmcompressor_python:
            print(measure_peer(args.llmcompressor_python, model, folder))


if __name__ == "__main__":
    main()
