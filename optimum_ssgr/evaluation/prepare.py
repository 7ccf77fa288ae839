"""What is read and checked before a model is asked: problems, prompts that fit, and general text cut into windows."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.load import dtype_of, load_config, load_model, load_skeleton, load_tokenizer
from ..config import LoadingConfig, PromptConfig
from ..errors import DataError
from ..problems.documents import load_documents
from ..problems.options import ProblemOptions
from ..reasoner import NAME as EMBEDDED
from ..records import Problem
from ..rollouts.cache import check_batchable
from ..rollouts.prompts import check_lengths, encode_prompts
from ..tokens import check_context
from .perplexity import windows_of


CHARACTERS_PER_TOKEN = 8
"""So many characters of text are read for every token wanted, which is more than any tokenizer takes."""


def load_with_tokenizer(
    model_id: str, loading: LoadingConfig, weights: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer.

    Args:
        model_id: Hub id, local folder, or `tiny-reasoner`.
        loading: How it is loaded.
        weights: Whether it is to answer in this process; else it stays on the meta device, without weights but of their type.

    Raises:
        ModelError: It cannot be loaded.
    """
    if weights:
        return load_model(model_id, dtype=loading.dtype, device_map=loading.device_map, **loading.source)
    skeleton = load_skeleton(model_id, **loading.source)
    if loading.dtype != "auto":
        skeleton.to(dtype_of(loading.dtype))
    return skeleton, load_tokenizer(model_id, **loading.source)


def check_model(
    model_id: str,
    loading: LoadingConfig,
    is_asked: bool = True,
    prompting: PromptConfig | None = None,
    in_process: bool = False,
) -> None:
    """Refuse a model that cannot be loaded, or asked, before problems and text are downloaded.

    Args:
        model_id: Hub id, local folder, or `tiny-reasoner`.
        loading: How it is loaded.
        is_asked: Whether it is to answer, which takes a chat template.
        prompting: System message and variables of the template.
        in_process: Whether it is to answer in this process, which takes keys and values only.

    Raises:
        ModelError: Its config or tokenizer cannot be loaded, it has no chat template, or it cannot answer here.
        ConfigError: The template has no such variable.
    """
    config = load_config(model_id, **loading.source)
    if in_process:
        check_batchable(config, model_id)
    tokenizer = load_tokenizer(model_id, **loading.source)
    if is_asked:
        encode_prompts(tokenizer, [Problem("any", "Any question?", "")], prompting=prompting)


def check_prompts(
    model_id: str,
    loading: LoadingConfig,
    problems: Sequence[Problem],
    instruction: str,
    max_new_tokens: int,
    prompting: PromptConfig | None = None,
) -> None:
    """Render every prompt and see whether it fits a model, before any weights are loaded.

    Raises:
        ConfigError: A prompt, or it and the longest response, exceeds the context.
        ModelError: The model cannot be loaded or asked.
    """
    prompts = encode_prompts(load_tokenizer(model_id, **loading.source), problems, instruction, prompting)
    check_lengths(load_config(model_id, **loading.source), prompts.values(), max_new_tokens)


def load_evaluation_set(options: ProblemOptions, name: str, seed: int) -> list[Problem]:
    """Load problems to evaluate on.

    Raises:
        DataError: They cannot be read, or there are too few for a standard error.
    """
    problems = options.load(name, evaluation=True, seed=seed)
    if len(problems) < 2:
        raise DataError(f"'{name}' gives one problem; it takes at least 2 to know a standard error.")
    return problems


def load_evaluation_text(source: str, split: str | None, num_tokens: int) -> list[str]:
    """Read general text that no model was calibrated on, from another split than the one that calibration takes."""
    split = split or ("test" if source == EMBEDDED else "validation")
    return load_documents(source, CHARACTERS_PER_TOKEN * num_tokens, split=split)


def cut_windows(model_id: str, loading: LoadingConfig, documents: Sequence[str], length: int, most: int) -> torch.Tensor:
    """Cut text into windows by a model's tokenizer, before any weights are loaded; int64 [windows, length].

    Raises:
        SSGRError: A window does not fit the model's context, or the text does not fill one.
    """
    check_context(load_config(model_id, **loading.source), length, "a window of text")
    return windows_of(load_tokenizer(model_id, **loading.source), documents, length, most)
