"""Trace perplexity: how likely a model finds right traces of the dense model that it was not calibrated on.

A proxy: it costs one forward pass and tells models apart that answer alike, but it is not accuracy.
"""

import dataclasses
import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from transformers import PreTrainedModel
from transformers.utils import logging

from ..calibration.dataset import CalibrationSet
from ..checkpoints.load import load_config, load_tokenizer, revision_of, source_of
from ..compat import find_file
from ..config import LoadingConfig
from ..errors import DataError, SSGRError
from ..formats import CALIBRATION_TABLE, PROVENANCE_FILE, Provenance
from ..likelihood import response_nll
from ..records import GradedRollout
from ..sharing import load_calibration_set
from ..tokens import check_context, tokenizer_hash


logger = logging.get_logger(__name__)

MOST_TRACES = 256
"""Traces that models are compared on at most."""
FEW_TRACES = 64
"""As many at most where it must not take long: before and after pruning, and for every model of a study."""
TRACE_BATCH = 2048
"""Tokens run together before and after pruning or recovering: as few as pruning itself does, for it to take no more memory."""


def draw_held_out(candidates: Iterable[tuple[str, int]], most: int, seed: int) -> list[tuple[str, int]]:
    """Draw traces, one of each problem, so that they are independent of one another.

    Args:
        candidates: Problem id and sample of every trace, in any order.
        most: Traces at most.
        seed: Seed of the draw.

    Returns:
        Those drawn, in the order of the draw.
    """
    shuffled = sorted(candidates)
    random.Random(seed).shuffle(shuffled)
    of_problem: dict[str, tuple[str, int]] = {}
    for candidate in shuffled:
        of_problem.setdefault(candidate[0], candidate)
    return list(of_problem.values())[:most]


def hold_out(calibration: CalibrationSet, most: int, seed: int = 0, without: Collection[str] = ()) -> list[GradedRollout]:
    """Draw right traces of problems that a calibration set has no sequence of.

    Args:
        calibration: A set with rollouts.
        most: Traces at most.
        seed: Seed of the draw.
        without: Ids of further problems to leave out.
    """
    rollouts, left_out = calibration.rollouts, {*calibration.dataset["problem_id"], *without}
    rows = zip(rollouts["problem_id"], rollouts["sample"], rollouts["correct"], strict=True)
    places = {(name, sample): place for place, (name, sample, correct) in enumerate(rows) if correct and name not in left_out}
    drawn = [places[key] for key in draw_held_out(places, most, seed)]
    return dataclasses.replace(calibration, rollouts=rollouts.select(drawn)).graded_rollouts()


def read_held_out(
    source: str, models: Sequence[str], loading: LoadingConfig, seed: int
) -> tuple[CalibrationSet, list[GradedRollout]]:
    """Read traces that none of some models was calibrated on, as far as that is known.

    Problems that the set selected are left out, and those that any of the models was calibrated on.

    Args:
        source: Calibration set with rollouts of the dense model: folder, or Hub id (`ID` or `ID@REVISION`).
        models: The models that are to read them, named as for `load_model`.
        loading: How they are loaded.
        seed: Seed of the draw.

    Returns:
        The set, and its traces.

    Raises:
        DataError: The set cannot be read, holds no such traces, or was made with another tokenizer.
        ConfigError: A trace is longer than a model's context.
    """
    calibration = load_calibration_set(source)
    if calibration.rollouts is None:
        raise DataError(f"{source} holds no rollouts to take traces from; name a set that was made with some.")
    taken: set[str] = set()
    for model in models:
        if tokenizer_hash(load_tokenizer(model, **loading.source)) != calibration.manifest.tokenizer_hash:
            raise DataError(f"the traces in {source} were made with another tokenizer than that of {model}.")
        problems = calibrated_on(model, calibration)
        if problems is None:
            logger.warning(f"it is not known which problems {model} was calibrated on, so it may have seen traces of {source}.")
        taken.update(problems or ())
    traces = hold_out(calibration, MOST_TRACES, seed, taken)
    if len(traces) < 2:
        raise DataError(
            f"{source} holds right traces of {len(traces)} problems that no model was calibrated on, and a standard error "
            "takes at least 2; make a set of more problems."
        )
    longest = max(len(item.rollout.prompt_ids) + len(item.rollout.response_ids) for item in traces)
    for model in models:
        check_context(load_config(model, **loading.source), longest, "a trace")
    return calibration, traces


def calibrated_on(model: str, calibration: CalibrationSet) -> set[str] | None:
    """Return ids of the problems that a model was calibrated on or recovered with, but for what one set selected.

    Args:
        model: Hub id, folder, or `tiny-reasoner`; a model without `ssgr_config.json` counts as dense.
        calibration: The set whose problems need not be looked up.

    Returns:
        The ids; None when they are not known.
    """
    path = find_file(source_of(model), PROVENANCE_FILE, revision=revision_of(model), token=None)
    if path is None:
        return set()
    try:
        provenance = Provenance.from_file(Path(path))
        problems = _pruned_with(provenance, calibration, model)
    except (SSGRError, OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):  # damaged, or gone
        return None
    recovery = provenance.recovery
    if recovery is None or problems is None:
        return problems
    if recovery.rollouts_hash != calibration.manifest.rollouts_hash:
        return None
    return problems | set(calibration.rollouts["problem_id"]).difference(recovery.held_out_problems or ())


def _pruned_with(provenance: Provenance, calibration: CalibrationSet, model: str) -> set[str] | None:
    """Return ids of the problems in the set that a model was pruned with; None when they are not known."""
    manifest = provenance.calibration
    if manifest is None:
        return None if provenance.config.needs_calibration else set()
    if manifest.content_hash == calibration.manifest.content_hash or manifest.config.strategy == "text":
        return set()
    if provenance.calibration_folder:
        name = f"{provenance.calibration_folder}/{CALIBRATION_TABLE}"
        table = find_file(source_of(model), name, revision=revision_of(model), token=None)
        return set(pyarrow.parquet.read_table(table, columns=["problem_id"])["problem_id"].to_pylist()) - {None}
    if manifest.hub:
        loaded = load_calibration_set("{id}@{commit}".format(**manifest.hub), with_rollouts=False)
        return set(loaded.dataset["problem_id"]) - {None}
    return None


def trace_nll(
    model: PreTrainedModel, traces: Sequence[GradedRollout], batch_tokens: int = 16384, desc: str | None = None
) -> list[float]:
    """Return the mean negative log-likelihood that a model gives to each trace, see `nll_per_token`."""
    return nll_per_token(model, [(item.rollout.prompt_ids, item.rollout.response_ids) for item in traces], batch_tokens, desc)


def nll_per_token(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    batch_tokens: int = 16384,
    desc: str | None = None,
) -> list[float]:
    """Return the mean negative log-likelihood that a model gives to the tokens of each response, in nats.

    Args:
        model: Causal language model.
        sequences: Token ids of prompt and response.
        batch_tokens: See `response_nll`.
        desc: See `response_nll`.
    """
    nats = response_nll(model, sequences, batch_tokens, desc)
    return [total / len(response) for total, (_, response) in zip(nats, sequences, strict=True)]


def summarize_nll(nll: Sequence[float], dense: Sequence[float] | None = None) -> dict[str, Any]:
    """Summarize what a model gives to traces; the errors are over traces.

    Args:
        nll: Nats per token, one number per trace.
        dense: Those of the model to compare with, for the same traces in the same order.

    Returns:
        `traces` (their number), `trace_nll` (mean over traces of the nats per token; e to its power is the trace perplexity)
        and `trace_nll_se`, and with `dense` also `trace_nll_rise` and `trace_nll_rise_se`, paired by trace.
    """
    summary = {"traces": len(nll)} | _mean("trace_nll", nll)
    if dense is not None:
        summary |= _mean("trace_nll_rise", np.subtract(nll, dense))
    return summary


def _mean(name: str, values: Sequence[float]) -> dict[str, float | None]:
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return {name: float(np.mean(values)), f"{name}_se": error}
