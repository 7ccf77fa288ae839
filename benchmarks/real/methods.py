"""Which method keeps a real language model's own traces likely, on the same calibration tokens.

    python benchmarks/real/methods.py OUT --model MODEL --problems PROBLEMS --text wikitext.txt --held-out-text held-out.txt \
        --llmcompressor-python ~/peers/llmc/bin/python

goes on from the rollouts of `selection.py`, whose arguments it takes: every seed's correct traces, drawn at random (`self`),
are what all methods calibrate on, `A+B` a refined one, `llm-compressor:A` its own. Measured are the rise of the negative
log-likelihood of the held-out traces and of text, in nats per token, and how far the last hidden states of the held-out
traces are from the dense model's: squared, relative to theirs. +- is the standard error over traces (or windows) and seeds.
Seconds are the processor's, of pruning alone. Finished cells are kept in OUT.
"""

import argparse
import copy
import json
import os
import subprocess
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from selection import add_arguments, choose_traces, deal_out, format_nats, generate, sampling_of, select, write_json
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.likelihood import response_nll
from optimum_ssgr.study.cells import pruning_of


METHODS = ("magnitude", "wanda", "wanda+swaps", "sparsegpt", "sparsegpt+blocks", "alps", "alps+blocks")
PEER = "llm-compressor:"
WINDOWS, WINDOW = 16, 512
"""How many windows of held-out text, and their tokens."""
Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--held-out-text", type=Path, required=True, help="text that is measured on")
    parser.add_argument("--llmcompressor-python", type=Path, help="Python of the environment that llm-compressor is in")
    parser.set_defaults(methods=METHODS, targets=["0.5", "0.6", "0.7", "2:4", "4:8"])
    args = parser.parse_args()
    if args.llmcompressor_python:
        args.methods = [*args.methods, f"{PEER}sparsegpt", f"{PEER}wanda"]
    if not args.only_report:
        run(args)
    report(args)


def run(args: argparse.Namespace) -> None:
    """Select, prune and measure whatever is not there."""
    config = sampling_of(args)
    parts = deal_out(generate(args, config), args.parts)
    dense = SSGRPruner.from_pretrained(args.model, dtype=args.dtype)
    traces: Sequences = [(item.rollout.prompt_ids, item.rollout.response_ids) for item in choose_traces(parts[0], args.traces)]
    ids = dense.tokenizer.encode(args.held_out_text.read_text()[: 20 * WINDOWS * WINDOW], add_special_tokens=False)
    text: Sequences = [((), tuple(ids[WINDOW * n : WINDOW * (n + 1)])) for n in range(WINDOWS)]
    expected = hidden_states(dense.model, traces)
    losses = {"trace": response_nll(dense.model, traces), "text": response_nll(dense.model, text)}
    lengths = {"trace": [len(response) for _, response in traces], "text": [WINDOW - 1] * WINDOWS}
    write_json(args.output / "methods" / "dense.json", {"model": args.model, "nll": losses, "lengths": lengths})
    cells = product(range(args.seeds), args.targets, args.methods)
    missing = [cell for cell in cells if not cell_path(args, *cell).exists()]
    calibrations = {
        seed: select(dense, parts[1 + seed], replace(config, seed=seed), "self", PruningConfig(), args).without_rollouts()
        for seed in sorted({seed for seed, _, _ in missing})
    }
    for seed, target, method in tqdm(missing, unit="cell"):
        calibration = calibrations[seed]
        with TemporaryDirectory(dir=args.output) as folder:
            if method.startswith(PEER):
                peer, tokens = method.removeprefix(PEER), calibration.sequences
                model, seconds = prune_by_peer(args.llmcompressor_python, dense, tokens, peer, target, Path(folder))
            else:
                pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
                began = time.process_time()
                pruner.prune(calibration, pruning_of(method, target))
                model, seconds = pruner.model, time.process_time() - began
        found = hidden_states(model, traces)
        errors = [(ours - theirs).square().sum() / theirs.square().sum() for ours, theirs in zip(found, expected, strict=True)]
        nll = {"trace": response_nll(model, traces), "text": response_nll(model, text)}
        path = cell_path(args, seed, target, method)
        write_json(path, {"nll": nll, "error": torch.stack(errors).mean().item(), "seconds": seconds})


def prune_by_peer(
    python: Path, dense: SSGRPruner, sequences: list[list[int]], method: str, target: str, folder: Path
) -> tuple[PreTrainedModel, float]:
    """Have llm-compressor prune the same model on the same tokens; return the model and the processor's seconds."""
    source, tokens, pruned = folder / "dense", folder / "tokens.json", folder / "pruned"
    for saved in (dense.model, dense.tokenizer):
        saved.save_pretrained(source)
    tokens.write_text(json.dumps(sequences))
    command = [python.absolute(), "-m", "peers.llm_compressor", source, tokens, pruned, method, target]
    found = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(command, env=found, stdout=subprocess.PIPE, text=True, check=True).stdout
    return type(dense.model).from_pretrained(pruned, dtype=dense.model.dtype), float(told.split()[-1])


@torch.inference_mode()
def hidden_states(model: PreTrainedModel, traces: Sequences) -> list[torch.Tensor]:
    """Return what the decoder makes of the responses of traces, one matrix (tokens x hidden size) a trace."""
    decoder = model.get_decoder()
    return [
        decoder(torch.tensor([[*prompt, *response]]), use_cache=False).last_hidden_state[0, len(prompt) :].float()
        for prompt, response in traces
    ]


def report(args: argparse.Namespace) -> None:
    """Print a Markdown table for every target of what is there, and write them to methods.md."""
    dense = json.loads((args.output / "methods" / "dense.json").read_text())
    base = {name: np.array(nll) / np.array(dense["lengths"][name]) for name, nll in dense["nll"].items()}
    lines = [
        f"{dense['model']}: dense {base['trace'].mean():.3f} nats per token of its traces, {base['text'].mean():.3f} of text."
    ]
    for target in args.targets:
        rows = []
        for method in args.methods:
            paths = [cell_path(args, seed, target, method) for seed in range(args.seeds)]
            cells = [json.loads(path.read_text()) for path in paths if path.exists()]
            if not cells:
                continue
            rises = {
                name: format_nats(np.array([cell["nll"][name] for cell in cells]) / dense["lengths"][name] - of_dense)
                for name, of_dense in base.items()
            }
            error, seconds = (np.mean([cell[key] for cell in cells]) for key in ("error", "seconds"))
            rows.append(f"| {method} | {rises['trace']} | {rises['text']} | {error:.3f} | {seconds:,.0f} | {len(cells)} |")
        header = "| method | own traces: rise (nats per token) | text: rise | error of the last states | CPU seconds | seeds |"
        lines += ["", f"{target}", "", header, "|---|---|---|---|---|---|", *rows] if rows else []
    text = "\n".join(lines) + "\n"
    (args.output / "methods.md").write_text(text)
    print(text)


def cell_path(args: argparse.Namespace, seed: int, target: str, method: str) -> Path:
    """Return the file of a cell's result."""
    return args.output / "methods" / f"{method}-{target}-{seed}.json".replace(":", "_")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
