"""Load a model and its tokenizer the way transformers does, with errors a user understands."""

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import ConfigError, ModelError
from ..hub.failures import hub_error
from ..reasoner import NAME as EMBEDDED
from ..reasoner import WEIGHTS


LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError, SafetensorError)


def load_model(
    model_id: str,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, str] | None = None,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model for inference; only safetensors weights are read, never pickles.

    Args:
        model_id: Hub id, local folder, or `tiny-reasoner` for the embedded model.
        revision: Branch, tag or commit on the Hub.
        dtype: Weight type; `auto` keeps the checkpoint's own.
        device_map: Where to place the layers, as in transformers.
        trust_remote_code: Whether code from the checkpoint may run.
        token: Hub token.

    Raises:
        ModelError: The model or its tokenizer cannot be loaded.
    """
    source = source_of(model_id)
    dtype = dtype if dtype == "auto" else dtype_of(dtype)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code, "token": token}
    tokenizer = load_tokenizer(model_id, **shared)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=device_map, use_safetensors=True, **shared)
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error
    model.config._name_or_path = model_id
    return model.eval(), tokenizer


def load_skeleton(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, token: str | bool | None = None
) -> PreTrainedModel:
    """Build a model without weights, on the meta device, from its config alone.

    Raises:
        ModelError: The config cannot be loaded.
    """
    config = load_config(model_id, revision=revision, trust_remote_code=trust_remote_code, token=token)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error
    model.config._name_or_path = model_id
    return model


def load_config(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, token: str | bool | None = None
) -> PretrainedConfig:
    """Load a model's config alone.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(
            source_of(model_id), revision=revision, trust_remote_code=trust_remote_code, token=token
        )
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error


def load_tokenizer(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, token: str | bool | None = None
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(
            source_of(model_id), revision=revision, trust_remote_code=trust_remote_code, token=token
        )
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """Return the weight type of a name such as `bfloat16`.

    Raises:
        ConfigError: There is no floating-point type of that name.
    """
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"unknown dtype '{name}'; choose float32, bfloat16 or float16.")
    return dtype


def source_of(model_id: str) -> str:
    """Return the Hub id or folder behind a model's name."""
    return str(WEIGHTS) if model_id == EMBEDDED else model_id


def cannot_load(model_id: str, error: Exception) -> ModelError:
    """Say in one sentence why a model could not be loaded."""
    refusal = hub_error(error, model_id)
    if refusal is not None:
        return ModelError(f"cannot load the model '{model_id}': {refusal}")
    lines = str(error).strip().splitlines()
    return ModelError(f"cannot load the model '{model_id}': {lines[0] if lines else type(error).__name__}")
