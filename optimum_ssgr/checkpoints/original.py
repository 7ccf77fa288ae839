"""What a model was loaded from: where its files are, and what in them is still as the model has it."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import has_offloaded_params
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..compat import model_commit, model_name, offloaded_state_dict
from ..errors import DataError, ModelError, SSGRError
from ..hub.client import call_hub
from ..pruning.memory import same_values
from .carry import fetch_source, read_config, stored_tensors
from .load import load_tokenizer, source_of
from .places import check_put_back, find_places, pruned_parameters
from .streaming import StreamedWeights
from .tensor_files import FLOATS


logger = logging.get_logger(__name__)

TEMPLATES = "additional_chat_templates"
"""Folder of a tokenizer's further chat templates."""


def check_source(model: PreTrainedModel, source: Path) -> bool:
    """See, before the work and by the headers of its files, whether what a model was loaded from can be written again.

    Args:
        model: The model, not pruned yet.
        source: Folder that it was loaded from.

    Returns:
        Whether a checkpoint can hold all that is there; if not, a warning says why it will hold what the model has in memory.

    Raises:
        ModelError: What is stored is made of what is pruned in a way that cannot be undone.
    """
    try:
        _refuse_quantized(source)
        stored = stored_tensors(source)
        places = find_places(stored, model, str(source))
    except (ModelError, DataError) as error:
        _warn_of_loss(source, error)
        return False
    check_put_back(stored, places, model, str(source))
    return True


def find_source(model: PreTrainedModel, token: str | bool | None = None, trust_remote_code: bool = False) -> Path | None:
    """Find the files that a model was loaded from.

    Args:
        model: The model.
        token: Hub token.
        trust_remote_code: Whether code may be fetched with the rest.

    Returns:
        Their folder; None where there is none, as for a model that was built in Python, or it cannot be fetched.
    """
    name, commit = model_name(model), model_commit(model)
    source = source_of(name) if name else ""
    if not source or Path(source).is_dir():
        return Path(source) if source else None
    if commit is None:
        return None
    try:
        return call_hub(lambda: fetch_source(source, commit, token, trust_remote_code), source, tries=3)
    except (SSGRError, OSError) as error:
        logger.warning(f"The files of {name} cannot be read, so a checkpoint holds what the model has in memory: {error}")
        return None


def open_source(model: PreTrainedModel, source: Path, refined: bool) -> StreamedWeights | None:
    """Return what reads the files of a model; None where it is not what they hold, but for what is pruned or refined."""
    try:
        _refuse_quantized(source)
        weights = StreamedWeights(source, model, torch.device("cpu"))
        pruned = set(pruned_parameters(model, refined))
        for name, tensor in state_of(model).items():
            if name not in pruned and not same_values(tensor, weights.read(name)):
                raise ModelError(f"{name} was changed after it was loaded.")
    except (ModelError, DataError) as error:
        _warn_of_loss(source, error)
        return None
    return weights


def _refuse_quantized(source: Path) -> None:
    config = read_config(source)
    if any(part.get("quantization_config") for part in (config, config.get("text_config") or {})):
        raise ModelError("its weights are quantized.")


def _warn_of_loss(source: Path, error: Exception) -> None:
    logger.warning(f"The checkpoint holds what the model has in memory, and nothing else of {source}: {error}")


def other_dtype(dtype: torch.dtype, source: Path, stored: set[str]) -> torch.dtype | None:
    """Return the type that a checkpoint is to have where its original's is another than was asked for, or too narrow."""
    config = read_config(source)
    said = {part.get(key) for part in (config, config.get("text_config") or {}) for key in ("dtype", "torch_dtype")} - {None}
    kinds = {FLOATS[name] for name in stored}
    if kinds == {dtype} and (not said or str(dtype).removeprefix("torch.") in said):
        return None
    holds = all(torch.promote_types(kind, dtype) == kind for kind in kinds)
    return None if holds and str(dtype).removeprefix("torch.") in said else dtype


def is_as_loaded(tokenizer: PreTrainedTokenizerBase, source: Path, trust_remote_code: bool) -> bool:
    """Tell whether a tokenizer is the one that is in a folder."""
    try:
        original = load_tokenizer(str(source), trust_remote_code=trust_remote_code)
    except ModelError:
        return False
    with TemporaryDirectory() as name:
        folders = [Path(name) / "given", Path(name) / "original"]
        for folder, saved in zip(folders, (tokenizer, original), strict=True):
            saved.save_pretrained(folder)
        given, original = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
            for folder in folders
        )
    # transformers asks the Hub which further templates there are, and goes on without those that it cannot be told of
    return given == {path: content for path, content in original.items() if path in given or path.parent.name != TEMPLATES}


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the names of the files that a tokenizer may be in."""
    return (
        *tokenizer.vocab_files_names.values(),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
        TEMPLATES,
    )


def has_generation_config(model: PreTrainedModel, source: Path) -> bool:
    """Tell whether a model's generation config is the one that is in a folder."""
    with suppress(OSError):
        return GenerationConfig.from_pretrained(source).to_dict() == model.generation_config.to_dict()
    return False


def state_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a model's tensors by name, also those that are offloaded."""
    offloaded = any(has_offloaded_params(module) for module in model.modules())
    return offloaded_state_dict(model) if offloaded else model.state_dict()
