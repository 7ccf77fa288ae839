"""Load a model and its tokenizer the way transformers does, with errors a user understands."""

from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..compat import find_file, set_origin
from ..errors import ConfigError, DataError, ModelError
from ..hub.client import call_hub, limited_silence
from ..hub.failures import hub_error
from ..hub.names import split_revision
from ..reasoner import NAME as EMBEDDED
from ..reasoner import WEIGHTS
from .inspect import INDEX, read_index


LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError, SafetensorError, DataError)


@limited_silence()
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

    A model of images and text is loaded whole, where transformers has no class for its text alone.

    Args:
        model_id: Hub id (`ID` or `ID@REVISION`), local folder, or `tiny-reasoner` for the embedded model.
        revision: Branch, tag or commit on the Hub; that of the name when None, as for the functions below.
        dtype: Weight type; `auto` keeps the checkpoint's own.
        device_map: Where to place the layers, as in transformers.
        trust_remote_code: Whether code from the checkpoint may run.
        token: Hub token.

    Raises:
        ModelError: The model or its tokenizer cannot be loaded.
    """
    source, commit = source_of(model_id), commit_of(model_id, revision, token)
    revision = commit or revision_of(model_id, revision)
    dtype = dtype if dtype == "auto" else dtype_of(dtype)
    shared = {"revision": revision, "trust_remote_code": trust_remote_code, "token": token}
    tokenizer = load_tokenizer(model_id, **shared)
    try:
        _check_index(source, revision, token)
        model_class = auto_class(AutoConfig.from_pretrained(source, **shared))
        model = model_class.from_pretrained(source, dtype=dtype, device_map=device_map, use_safetensors=True, **shared)
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error
    set_origin(model, split_revision(model_id)[0], commit)
    return model.eval(), tokenizer


@limited_silence()
def load_skeleton(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, token: str | bool | None = None
) -> PreTrainedModel:
    """Build a model without weights, on the meta device, from its config and generation config alone.

    Raises:
        ModelError: The config cannot be loaded.
    """
    commit = commit_of(model_id, revision, token)
    config = load_config(model_id, revision=commit or revision, trust_remote_code=trust_remote_code, token=token)
    try:
        with torch.device("meta"):
            model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error
    with suppress(OSError):  # not every checkpoint has one
        model.generation_config = GenerationConfig.from_pretrained(
            source_of(model_id), revision=commit or revision_of(model_id, revision), token=token
        )
    set_origin(model, split_revision(model_id)[0], commit)
    return model


@limited_silence()
def load_config(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, token: str | bool | None = None
) -> PretrainedConfig:
    """Load a model's config alone.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        revision = revision_of(model_id, revision)
        return AutoConfig.from_pretrained(
            source_of(model_id), revision=revision, trust_remote_code=trust_remote_code, token=token
        )
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error


@limited_silence()
def load_tokenizer(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, token: str | bool | None = None
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        revision = revision_of(model_id, revision)
        return AutoTokenizer.from_pretrained(
            source_of(model_id), revision=revision, trust_remote_code=trust_remote_code, token=token
        )
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error


def auto_class(config: PretrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """Return the class of transformers that makes the model of a config: that of images and text only where there is no other.

    Raises:
        ValueError: There is none.
    """
    classes = {
        AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForImageTextToText: MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    }
    own = getattr(config, "auto_map", None) or {}  # what code that comes with the checkpoint offers
    known = next((auto for auto, mapping in classes.items() if type(config) in mapping), None)
    found = known or next((auto for auto in classes if auto.__name__ in own), None)
    if found is None:
        raise ValueError(f"models of the type '{config.model_type}' are no language models that transformers can load.")
    return found


def takes_images(config: PretrainedConfig) -> bool:
    """Tell whether a config is that of a model of images and text, which has a class of its own."""
    return auto_class(config) is AutoModelForImageTextToText


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
    return str(WEIGHTS) if model_id == EMBEDDED else split_revision(model_id)[0]


def revision_of(model_id: str, revision: str | None = None) -> str | None:
    """Return the revision to load a model from: the one given, or else that of its name."""
    return revision or split_revision(model_id)[1]


def commit_of(model_id: str, revision: str | None, token: str | bool | None) -> str | None:
    """Return the commit on the Hub that a revision of a model stands for now; None for a folder, or where it cannot be told."""
    source = source_of(model_id)
    if Path(source).exists():
        return None
    options = {"revision": revision_of(model_id, revision), "token": token, "local_files_only": constants.HF_HUB_OFFLINE}
    try:
        return call_hub(lambda: HfApi().resolve_revision(source, **options), source, tries=3).resolved
    except Exception:  # of many kinds; loading, which comes next, says what is wrong
        return None


def _check_index(source: str, revision: str | None, token: str | bool | None) -> None:
    """Refuse an index that leads out of its checkpoint or to a pickle; transformers would follow it.

    Raises:
        DataError: It does.
    """
    index = find_file(source, INDEX, revision=revision, token=token)
    if index is not None:
        read_index(Path(index))


def cannot_load(model_id: str, error: Exception) -> ModelError:
    """Say in one sentence why a model could not be loaded."""
    refusal = hub_error(error, model_id)
    if refusal is not None:
        return ModelError(f"cannot load the model '{model_id}': {refusal}")
    if "trust_remote_code=True" in str(error):
        return ModelError(
            f"cannot load the model '{model_id}': it takes code that comes with it; look at that code, and if you trust it, "
            "allow it with --trust-remote-code (trust_remote_code=True)."
        )
    lines = str(error).strip().splitlines()
    return ModelError(f"cannot load the model '{model_id}': {lines[0] if lines else type(error).__name__}")
