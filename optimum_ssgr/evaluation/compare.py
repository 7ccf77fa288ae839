"""Compare models: each is asked the same problems, and what comes back is put side by side."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.identity import hash_weights
from ..checkpoints.load import source_of
from ..compat import model_commit
from ..errors import DataError
from ..formats import Manifest
from ..records import GradedRollout, Problem
from ..rollouts.choose import open_engine
from ..rollouts.prompts import resolve_prompting
from ..rollouts.store import open_rollout_store, rollout_fingerprint
from ..verification.verify import warn_of_unreadable
from .config import TEXT_WINDOWS, EvaluationConfig
from .evaluate import MeteredEngine, answer
from .perplexity import perplexity
from .prepare import check_model, check_prompts, cut_windows, load_evaluation_set, load_evaluation_text, load_with_tokenizer
from .results import file_name, result_row
from .traces import read_held_out, summarize_nll, trace_nll


@dataclass(frozen=True)
class ModelResult:
    """What came of asking one model.

    Args:
        identity: Which weights it has: their commit on the Hub, or the hashes of their files.
        graded: Its responses by problem set.
        perplexity: Of the general text; None without any.
        trace_nll: What it gives to held-out traces, see `traces.trace_nll`; None without any.
        speed: Tokens it generated in a second; None when all responses were in the journal.
        prompting: How it was addressed, see `formats.Origin`.
    """

    identity: dict[str, Any]
    graded: dict[str, list[GradedRollout]]
    perplexity: float | None
    trace_nll: list[float] | None
    speed: float | None
    prompting: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Args:
        config: What was compared and how.
        problems: The problems by the name of their set.
        results: What came of every model, by its name, the baseline first.
        rows: One row of numbers for every model and problem set, see `results.result_row`.
        traces: Manifest of the set that held-out traces come from; None without any.
    """

    config: EvaluationConfig
    problems: Mapping[str, list[Problem]]
    results: Mapping[str, ModelResult]
    rows: list[dict[str, Any]]
    traces: Manifest | None = None


def compare_models(config: EvaluationConfig, journal_dir: str | Path | None = None) -> Comparison:
    """Ask models the same problems and compare them, problem by problem.

    Everything that can be refused is refused before the first model is asked.

    Args:
        config: Models, problems and how to ask.
        journal_dir: Folder for finished responses: when the same call is made again after an interruption, only what is
            missing is generated.

    Raises:
        SSGRError: A model, a problem set or a setting cannot be used, or the journal belongs to another run.
    """
    # 1. What is to be asked, and whether it can be.
    sampling, loading = config.sampling, config.loading
    for model in config.asked_models:
        check_model(model, loading, prompting=config.prompting, in_process=config.engine.in_process)
    problems = {name: load_evaluation_set(config.reading, name, sampling.seed) for name in config.samples_of}
    documents: list[str] = []
    if config.text:
        documents = load_evaluation_text(config.text, config.text_split, config.text_length * TEXT_WINDOWS)
    for name, found in problems.items():
        for model in config.asked_models:
            instruction = config.reading.instruction_for(name)
            check_prompts(model, loading, found, instruction, sampling.max_new_tokens, config.prompting)
    windows: dict[str, torch.Tensor] = {}
    if config.text:
        windows = {
            model: cut_windows(model, loading, documents, config.text_length, TEXT_WINDOWS) for model in config.asked_models
        }
    origin, traces = None, None
    if config.traces:
        known, traces = read_held_out(config.traces, config.asked_models, loading, sampling.seed)
        origin = known.manifest
    # 2. One model after the other, so that one at a time is in memory.
    results = {
        model: _ask(config, model, problems, windows.get(model), traces, Path(journal_dir) if journal_dir is not None else None)
        for model in config.asked_models
    }
    # 3. Side by side.
    return Comparison(config, problems, results, _make_rows(config, results), origin)


def _ask(
    config: EvaluationConfig,
    name: str,
    problems: Mapping[str, Sequence[Problem]],
    windows: torch.Tensor | None,
    traces: Sequence[GradedRollout] | None,
    journal_dir: Path | None,
) -> ModelResult:
    """Ask one model all problems."""
    model, tokenizer = load_with_tokenizer(name, config.loading, weights=config.engine.in_process)
    identity = _identify(name, model_commit(model))
    measured = None if windows is None else perplexity(model, windows)
    nll = None if traces is None else trace_nll(model, traces, desc="likelihood")
    prompting = resolve_prompting(tokenizer, config.prompting)
    sampling, batch_size, sole = config.sampling, config.batch_size, len(config.asked_models) == 1
    trust = config.loading.trust_remote_code
    with open_engine(config.engine, model, tokenizer, sampling, batch_size, sole, trust) as opened:
        engine, graded = MeteredEngine(opened), {}
        for set_name, samples in config.samples_of.items():
            store = None
            if journal_dir is not None:
                decided_by = rollout_fingerprint(model, tokenizer, sampling, config.engine, batch_size)
                store = open_rollout_store(journal_dir / _store_name(name, set_name), decided_by)
            instruction, asked = config.reading.instruction_for(set_name), problems[set_name]
            graded[set_name] = answer(engine, tokenizer, asked, sampling.seed, samples, instruction, store, prompting)
            warn_of_unreadable(graded[set_name], name)
    speed = engine.tokens / engine.seconds if engine.seconds else None
    return ModelResult(identity, graded, measured, nll, speed, prompting.recorded)


def _identify(model: str, commit: str | None) -> dict[str, Any]:
    """Tell which weights a model has, so that its results are taken for no other's; None where a server has them."""
    folder = Path(source_of(model))
    try:
        return {"commit": commit, "weights": hash_weights(folder) if folder.is_dir() else None}
    except DataError:
        return {"commit": commit, "weights": None}


def _store_name(model: str, problems: str) -> str:
    """Return a folder's name for a model and a problem set: readable, and different for any two pairs."""
    return f"{file_name(f'{Path(model).name}-{problems}')}-{hashlib.sha256(f'{model} {problems}'.encode()).hexdigest()[:8]}"


def _make_rows(config: EvaluationConfig, results: Mapping[str, ModelResult]) -> list[dict[str, Any]]:
    """Put the numbers of every model and problem set together."""
    rows = []
    for model, result in results.items():
        against = results[config.baseline] if config.baseline and model != config.baseline else None
        measured = {} if result.perplexity is None else {"text_perplexity": result.perplexity}
        if result.trace_nll is not None:
            measured |= summarize_nll(result.trace_nll, against and against.trace_nll)
        for name, graded in result.graded.items():
            baseline = against and against.graded[name]
            row = result_row(model, name, config.reading.evaluation_split(name), graded, baseline=baseline)
            rows.append(row | measured)
    return rows
