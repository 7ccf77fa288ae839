"""Which selection keeps a real language model's own traces likely, at equal numbers of calibration tokens.

    python benchmarks/real/selection.py OUT --model HuggingFaceTB/SmolLM2-135M-Instruct --text wikitext.txt \
        --problems 'reasoning-gym:chain_sum(max_terms=3,min_digits=1,max_digits=1),gcd(min_value=2,max_value=30,max_numbers=2)'

The model answers problems of several kinds, once and for all; the problems are dealt out to the seeds and to a part that is
held out. Every seed's strategies select the same number of tokens from its rollouts, the model is pruned with them, and what
counts is the rise of the negative log-likelihood of the held-out part's traces, paired by trace (trace perplexity, a proxy
of accuracy that takes one forward pass), and with `--asked N` problems of that part solved. +- is the standard error over
traces and seeds, in parentheses are 95 % intervals. A run that is stopped goes on where it was: finished rollouts and cells
are kept in OUT, and more strategies, methods, targets or seeds only add cells.
"""

import argparse
import copy
import dataclasses
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from optimum_ssgr import CalibrationConfig, PruningConfig, SSGRPruner, load_problems
from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.config import IN_PROCESS, EngineConfig, SamplingConfig
from optimum_ssgr.evaluation.evaluate import evaluate
from optimum_ssgr.evaluation.intervals import Variance, estimate_share, format_share, student_quantile
from optimum_ssgr.files import write_whole
from optimum_ssgr.likelihood import response_nll
from optimum_ssgr.records import GradedRollout
from optimum_ssgr.study.cells import DAMAGE, pruning_of


HEADER = "| calibrated on | rise (nats per token) | against `self` | worst kind | seeds |"
STRATEGIES = ("text", "prompts", "self", "rac", "ssgr", "cover", DAMAGE)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    args = parser.parse_args()
    if not args.only_report:
        run(args)
    report(args)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how to generate, deal out, select and measure."""
    parser.add_argument("output", type=Path, help="folder for rollouts and results")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32", help="type of the weights")
    parser.add_argument("--engine", default=IN_PROCESS, help="what generates, as for `ssgr calibrate`")
    parser.add_argument("--engine-command", help="its executable")
    parser.add_argument("--engine-args", default="", help="more flags for it")
    parser.add_argument("--problems", required=True)
    parser.add_argument("--num-problems", type=int, default=512)
    parser.add_argument("--samples-per-problem", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--max-new-tokens", type=int, default=300)
    parser.add_argument("--instruction", default="Think step by step. At the end say: The answer is ...")
    parser.add_argument("--text", help="general text for the strategy text, as for `ssgr calibrate`")
    parser.add_argument("--methods", nargs="+", default=["sparsegpt", "alps"])
    parser.add_argument("--targets", nargs="+", default=["0.5", "0.6", "2:4"])
    parser.add_argument("--parts", type=int, default=4, help="parts that the problems are dealt out to; one is held out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-tokens", type=int, default=16000)
    parser.add_argument("--traces", type=int, default=96, help="held-out traces at most")
    parser.add_argument("--asked", type=int, default=0, help="held-out problems that pruned models are asked, greedily")
    parser.add_argument("--only-report", action="store_true")


def sampling_of(args: argparse.Namespace) -> CalibrationConfig:
    """Return how the model is sampled and what is selected from, with the first seed."""
    return CalibrationConfig(
        num_sequences=None,
        num_tokens=args.num_tokens,
        samples_per_problem=args.samples_per_problem,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        text_length=512,
        max_per_problem=args.samples_per_problem,
    )


def run(args: argparse.Namespace) -> None:
    """Generate, select, prune and measure whatever is not there."""
    config = sampling_of(args)
    parts = deal_out(generate(args, config), args.parts)
    held_out = choose_traces(parts[0], args.traces)
    traces = [(item.rollout.prompt_ids, item.rollout.response_ids) for item in held_out]
    dense = SSGRPruner.from_pretrained(args.model, dtype=args.dtype)
    write_json(
        args.output / "dense.json",
        {
            "model": args.model,
            "pool": describe_pool([item for part in parts[1:] for item in part]),
            "kinds": [item.problem.kind for item in held_out],
            "tokens": [len(response) for _, response in traces],
            "correct": sum(item.verdict.correct for item in held_out),
            "nll": response_nll(dense.model, traces),
            "solved": solve(dense, parts[0], args),
        },
    )
    cells = [
        (seed, method, target, strategy)
        for seed in range(args.seeds)
        for method in args.methods
        for target in args.targets
        for strategy in args.strategies
    ]
    for seed, method, target, strategy in tqdm(cells, unit="cell"):
        path = cell_path(args, seed, method, target, strategy)
        if path.exists():
            continue
        pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
        pruning = pruning_of(method, target)
        built = select(pruner, parts[1 + seed], dataclasses.replace(config, seed=seed), strategy, pruning, args)
        pruner.prune(built.without_rollouts(), pruning)  # whose own traces need not be measured, too
        kinds: dict[str, int] = {}
        for kind, tokens in zip(built.dataset["kind"], built.dataset["num_tokens"], strict=True):
            kinds[str(kind)] = kinds.get(str(kind), 0) + tokens
        found = {"nll": response_nll(pruner.model, traces), "solved": solve(pruner, parts[0], args)}
        write_json(path, {**found, "calibration_tokens": kinds})


def solve(pruner: SSGRPruner, rollouts: Sequence[GradedRollout], args: argparse.Namespace) -> list[bool]:
    """Tell of some held-out problems, drawn at random, whether a model solves them."""
    problems = sorted({item.problem.id: item.problem for item in rollouts}.values(), key=lambda problem: problem.id)
    problems = random.Random(0).sample(problems, min(args.asked, len(problems)))
    if not problems:
        return []
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=args.max_new_tokens)
    answers = evaluate(pruner.model, pruner.tokenizer, problems, sampling, instruction=args.instruction)
    return [item.verdict.correct for item in answers]


def generate(args: argparse.Namespace, config: CalibrationConfig) -> list[GradedRollout]:
    """Let the model answer all problems."""
    problems = load_problems(args.problems, limit=args.num_problems)
    pruner = SSGRPruner.from_pretrained(args.model, dtype=args.dtype)
    engine = EngineConfig(args.engine, args.engine_command, args.engine_args)
    journal = args.output / "rollouts"
    return pruner.generate_rollouts(problems, config, journal_dir=journal, engine=engine, instruction=args.instruction)


def deal_out(rollouts: Sequence[GradedRollout], parts: int) -> list[list[GradedRollout]]:
    """Deal the problems of every kind out to the parts, with all of their rollouts."""
    names = sorted({(str(item.problem.kind), item.problem.id) for item in rollouts})
    random.Random(0).shuffle(names)
    places = {name: place % parts for place, (_, name) in enumerate(sorted(names, key=lambda pair: pair[0]))}
    return [[item for item in rollouts if places[item.problem.id] == part] for part in range(parts)]


def choose_traces(rollouts: Sequence[GradedRollout], most: int) -> list[GradedRollout]:
    """Choose traces to measure on, one of a problem: a correct one, or one that finished where none is correct."""
    best: dict[str, GradedRollout] = {}
    for item in rollouts:
        if item.rollout.finished and (
            item.problem.id not in best or item.verdict.correct > best[item.problem.id].verdict.correct
        ):
            best[item.problem.id] = item
    chosen = sorted(best.values(), key=lambda item: item.problem.id)
    random.Random(0).shuffle(chosen)
    return sorted(chosen, key=lambda item: not item.verdict.correct)[:most]


def select(
    pruner: SSGRPruner,
    rollouts: Sequence[GradedRollout],
    config: CalibrationConfig,
    strategy: str,
    pruning: PruningConfig,
    args: argparse.Namespace,
) -> CalibrationSet:
    """Make a calibration set by a strategy from a seed's rollouts."""
    if strategy == DAMAGE:
        config = dataclasses.replace(config, strategy="cover", damage=True)
        dense_nll = args.output / f"dense-nll-{config.seed}.json"
        measured, damage = pruner.measure_damage(rollouts, pruning, config, dense_nll=dense_nll)
        return pruner.build_calibration(config=config, rollouts=measured, metadata={"damage": damage})
    config = dataclasses.replace(config, strategy=strategy)
    problems = list({item.problem.id: item.problem for item in rollouts}.values())
    return pruner.build_calibration(problems, config, rollouts=rollouts, text=args.text)


def describe_pool(rollouts: Sequence[GradedRollout]) -> dict[str, dict[str, float]]:
    """Say how many rollouts there are of each kind, and how many are correct and finished."""
    pool: dict[str, dict[str, float]] = {}
    for item in rollouts:
        of_kind = pool.setdefault(str(item.problem.kind), {"rollouts": 0, "correct": 0, "finished": 0, "tokens": 0})
        of_kind["rollouts"] += 1
        of_kind["correct"] += item.verdict.correct
        of_kind["finished"] += item.rollout.finished
        of_kind["tokens"] += len(item.rollout.response_ids)
    return pool


def report(args: argparse.Namespace) -> None:
    """Print Markdown tables of what is there, and write them to report.md."""
    dense = json.loads((args.output / "dense.json").read_text())
    lengths = np.array(dense["tokens"])
    base, asked = np.array(dense["nll"]) / lengths, bool(dense["solved"])
    lines = [
        f"{dense['model']}: {len(base)} held-out traces ({dense['correct']} correct), dense {base.mean():.3f} nats per token"
        + (f"; of {len(dense['solved'])} problems it solves {format_solved([dense['solved']])}." if asked else "."),
        "",
        "| kind | rollouts | correct | finished | tokens |",
        "|---|---|---|---|---|",
        *(
            f"| {kind} | {n:,} | {of['correct'] / n:.0%} | {of['finished'] / n:.0%} | {of['tokens']:,} |"
            for kind, of in sorted(dense["pool"].items())
            for n in [of["rollouts"]]
        ),
    ]
    for method in args.methods:
        for target in args.targets:
            found = {strategy: cells for strategy in args.strategies if (cells := read_cells(args, method, target, strategy))}
            if not found:
                continue
            rises = {name: np.array([cell["nll"] for cell in cells]) / lengths - base for name, cells in found.items()}
            lines += [
                "",
                f"{method}, {target}",
                "",
                HEADER + (" solved |" if asked else ""),
                "|---|---|---|---|---|" + ("---|" if asked else ""),
            ]
            for strategy, rise in rises.items():
                solved = [cell["solved"] for cell in found[strategy]]
                against = "-"
                if "self" in rises and strategy != "self":
                    shared = min(len(rise), len(rises["self"]))
                    against = format_nats(rise[:shared] - rises["self"][:shared])
                kinds = {kind: rise[:, [k == kind for k in dense["kinds"]]].mean() for kind in sorted(set(dense["kinds"]))}
                worst = max(kinds, key=kinds.get)
                row = f"| {strategy} | {format_nats(rise)} | {against} | {worst} {kinds[worst]:+.3f} | {len(rise)} |"
                lines.append(row + (f" {format_solved(solved)} |" if asked else ""))
    text = "\n".join(lines) + "\n"
    (args.output / "report.md").write_text(text)
    print(text)


def read_cells(args: argparse.Namespace, method: str, target: str, strategy: str) -> list[dict[str, Any]]:
    """Return the results of the seeds that are done."""
    paths = [cell_path(args, seed, method, target, strategy) for seed in range(args.seeds)]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def format_solved(solved: Sequence[Sequence[bool]]) -> str:
    """Write the share of problems solved, by seed and problem, with its standard error."""
    found = estimate_share(np.array(solved, dtype=float))
    return format_share(found.mean, found.error, found.interval)


def format_nats(differences: np.ndarray) -> str:
    """Write a mean difference with its standard error and 95 % interval."""
    mean, variance = differences.mean(), Variance.of(differences)
    error = math.sqrt(variance.total)
    half = student_quantile(variance.freedom) * error
    return f"{mean:+.3f} ± {error:.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def cell_path(args: argparse.Namespace, seed: int, method: str, target: str, strategy: str) -> Path:
    """Return the file of a cell's result."""
    return args.output / "cells" / f"{method}-{target.replace(':', '_')}-{strategy}-{seed}.json"


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda partial: partial.write_text(json.dumps(values) + "\n"))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
