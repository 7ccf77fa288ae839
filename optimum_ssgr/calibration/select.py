"""Select a calibration set: from rollouts, prompts or text, or again from the rollouts of another set."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..compat import model_commit, model_name
from ..config import CalibrationConfig, PromptConfig
from ..errors import ConfigError, DataError
from ..formats import FirstSelection, Origin, installed_versions
from ..problems.documents import load_documents
from ..problems.load import ProblemSource, common_instruction, load_problems, sources_of
from ..records import GradedRollout, Problem
from ..rollouts.prompts import encode_prompts, resolve_prompting
from ..tokens import check_context, tokenizer_hash
from .dataset import CalibrationSet
from .kinds import name_kinds
from .strategies import Sources, select
from .text import TextSource, characters_for, draw_documents, encode_documents
from .windows import meets_budget


logger = logging.get_logger(__name__)

NAMED = 8
"""Kinds of problems that a warning names at most."""


def select_calibration(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: CalibrationConfig,
    rollouts: Sequence[GradedRollout] | None = None,
    *,
    problems: ProblemSource | None = None,
    text: TextSource | Sources | None = None,
    instruction: str | None = None,
    prompting: PromptConfig | None = None,
    metadata: Mapping[str, Any],
) -> CalibrationSet:
    """Select a model's calibration set, see `SSGRPruner.select_calibration`.

    Args:
        model: The model; its config is looked at.
        tokenizer: Its tokenizer.
        config: Strategy, windows, budgets and seed.
        rollouts: For the strategies that select among them.
        problems: For the strategy `prompts`.
        text: For the strategies `text` and `mix`, see `read_text`.
        instruction: What is appended to the questions; None when that is not known.
        prompting: How the model is, or was, addressed beside the questions.
        metadata: What else is known of their origin, by the names of `formats.Origin`; the rest is noted as it is.

    Raises:
        SSGRError: Something is missing, malformed or does not fit.
    """
    sources, prompting = read_text(model, tokenizer, config, text), resolve_prompting(tokenizer, prompting or PromptConfig())
    asked: Sequence[Problem] = ()
    if config.strategy == "prompts":
        asked = load_problems(require_problems(problems, config))
        sources = Sources(prompts=encode_prompts(tokenizer, asked, instruction or "", prompting))
        check_context(model.config, max(map(len, sources.prompts.values())), "the longest prompt")
    elif config.needs_rollouts:
        if rollouts is None:
            raise ConfigError(f"the strategy {config.strategy} needs rollouts; generate them first.")
        if config.strategy == "cover":
            rollouts = find_kinds(rollouts, model, config.seed)
        asked = [item.problem for item in rollouts]
        sources = dataclasses.replace(sources, rollouts=rollouts)
    known: dict[str, Any] = {"instruction": instruction}
    if config.strategy != "text":
        known = {"instruction": common_instruction(asked, instruction), "problems": {"read_from": sources_of(asked)}}
        known["prompting"] = prompting.recorded
    return build_set(sources, config, describe_origin(model, tokenizer, {**known, **metadata}))


def find_kinds(rollouts: Sequence[GradedRollout], model: PreTrainedModel, seed: int) -> Sequence[GradedRollout]:
    """Give problems without a kind that of a cluster, where the model is in memory to tell them apart."""
    if all(item.problem.kind is not None for item in rollouts):
        return rollouts
    if model.device.type == "meta":
        logger.warning(
            "some problems have no kind, and without the model in this process none can be found; they count as one kind."
        )
        return rollouts
    return name_kinds(rollouts, model, seed)


def require_problems(problems: ProblemSource | None, config: CalibrationConfig) -> ProblemSource:
    """Return the problems that a strategy needs.

    Raises:
        ConfigError: There are none.
    """
    if problems is None:
        raise ConfigError(f"the strategy {config.strategy} needs problems.")
    return problems


def read_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: CalibrationConfig, text: TextSource | Sources | None
) -> Sources:
    """Read general text, for the strategies that take windows of it, and tokenize it.

    Args:
        model: The model; its config is looked at.
        tokenizer: Its tokenizer.
        config: Strategy, budget and length of a window.
        text: What `load_documents` takes, or the documents themselves, or what was made of them here before.

    Raises:
        SSGRError: There is no text, or less than one window, or a window does not fit the model's context.
    """
    if isinstance(text, Sources) or not config.needs_text:
        return text if isinstance(text, Sources) else Sources()
    check_context(model.config, config.text_length, "a window of text")
    documents = load_documents(text, characters_for(config)) if isinstance(text, str | Path) else text or ()
    return encode_text(tokenizer, documents, config)


def encode_text(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], config: CalibrationConfig) -> Sources:
    """Draw general text for the strategies that take windows of it, and tokenize it.

    Raises:
        DataError: There is no text, or less than one window; found here, before a mixture generates its traces.
    """
    if not any(document.strip() for document in documents):
        raise DataError(f"the strategy {config.strategy} needs general text, and there is none.")
    ids, opening = encode_documents(tokenizer, draw_documents(documents, config), config.text_length)
    return Sources(text_ids=ids, opening=opening)


def describe_origin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, metadata: Mapping[str, Any]) -> Origin:
    """Say which model, tokenizer and versions a calibration set comes from, and what else is known."""
    names = {field.name for field in dataclasses.fields(Origin)}
    return Origin(
        model=model_name(model),
        model_commit=model_commit(model),
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer_hash=tokenizer_hash(tokenizer),
        versions=installed_versions("torch", "transformers", "datasets"),
        extra={name: value for name, value in metadata.items() if name not in names},
        **{name: value for name, value in metadata.items() if name in names},
    )


def build_set(sources: Sources, config: CalibrationConfig, origin: Origin) -> CalibrationSet:
    """Select sequences, and say when they are not what was asked for.

    Args:
        sources: What the strategy selects from; the rollouts among them are kept beside the selection.
        config: Strategy, windows, budgets and seed.
        origin: Where the sources come from.

    Raises:
        DataError: Nothing qualifies.
    """
    chosen = select(sources, config)
    lengths = [sequence.num_tokens for sequence in chosen]
    if not meets_budget(lengths, config):
        logger.warning(f"only {len(chosen)} sequences ({sum(lengths)} tokens) qualify, fewer than asked for.")
    built = CalibrationSet.build(chosen, sources.rollouts, origin, config)
    widened = built.manifest.counts.get("widened")
    if widened:
        logger.warning(f"{widened} of {len(chosen)} sequences lie outside the windows; see selected_by.")
    left_out = [name for name, of in (built.manifest.kinds or {}).items() if of["correct"] and not of["selected_share"]]
    if left_out and config.needs_rollouts:
        names = ", ".join(left_out[:NAMED]) + (f" and {len(left_out) - NAMED} kinds more" if len(left_out) > NAMED else "")
        logger.warning(
            f"the selection leaves out {names}, which the model solves and may unlearn when it is pruned; raise the "
            "budget, or take the strategy cover, which gives every kind of problem its share."
        )
    return built


def reselect(
    earlier: CalibrationSet,
    config: CalibrationConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    documents: Sequence[str] = (),
    text: str | None = None,
    rollouts: Sequence[GradedRollout] | None = None,
    damage: Mapping[str, Any] | None = None,
) -> CalibrationSet:
    """Make another calibration set from the rollouts of one, without generating anything.

    Args:
        earlier: A set with rollouts.
        config: What to select; how the rollouts were sampled is taken from the earlier set.
        tokenizer: The model's tokenizer, for the strategies that take text.
        documents: General text for them.
        text: What to call that text in the manifest.
        rollouts: The set's rollouts with what was found out about them since: kinds, or damage.
        damage: How their damage was measured, see `formats.Origin`; the set's own when None.

    Raises:
        DataError: The set has no rollouts, the tokenizer is another model's, or nothing qualifies.
    """
    graded = earlier.graded_rollouts() if rollouts is None else rollouts
    origin = _share_origin(earlier, text)
    if damage is not None:
        origin = dataclasses.replace(origin, damage=dict(damage))
    sampled = origin.reselected_from.config
    if sampled.adaptive:
        logger.warning("the rollouts were sampled adaptively: challenging problems have more of them than others.")
    config = dataclasses.replace(
        config,
        adaptive=False,
        **{name: getattr(sampled, name) for name in ("samples_per_problem", "temperature", "top_p", "max_new_tokens")},
    )
    sources = Sources()
    if config.needs_text:
        if tokenizer is None or tokenizer_hash(tokenizer) != earlier.manifest.tokenizer_hash:
            raise DataError(f"the strategy {config.strategy} needs the tokenizer that the rollouts were made with.")
        sources = encode_text(tokenizer, documents, config)
    prompts = {item.problem.id: item.rollout.prompt_ids for item in graded}
    return build_set(dataclasses.replace(sources, rollouts=graded, prompts=prompts), config, origin)


def _share_origin(earlier: CalibrationSet, text: str | None) -> Origin:
    """Return the origin of a set that is selected from another's rollouts, with another text.

    However often rollouts are selected from again, `reselected_from` is that set which they were generated for: its settings
    say how they were sampled.
    """
    manifest = earlier.manifest
    first = manifest.reselected_from or FirstSelection(
        calibration=manifest.calibration, content_hash=manifest.content_hash, hub=manifest.hub, text=manifest.text
    )
    shared = {field.name: getattr(manifest, field.name) for field in dataclasses.fields(Origin)}
    return Origin(**shared | {"text": text, "reselected_from": first})
