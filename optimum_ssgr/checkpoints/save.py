"""Save a pruned model so that it loads anywhere, and prove it before saying so."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.utils import has_offloaded_params
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..compat import offloaded_state_dict
from ..errors import ConfigError, OutputError
from ..files import new_folder
from ..formats import CARD_FILE, PROVENANCE_FILE, Provenance
from .load import auto_class


CHECK_TEXT = "Reload check: 1 + 1 = 2, <think> and </think>.\n"


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    provenance: Provenance,
    card: str,
    trust_remote_code: bool = False,
    keep: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Write model, tokenizer, provenance and card; the folder appears only after a reload gave the same weights back.

    The weights are dense safetensors with zeros, without a quantization config, so that any runtime loads them.

    Args:
        model: The pruned model.
        tokenizer: Its tokenizer.
        folder: Where to write.
        provenance: Contents of `ssgr_config.json`.
        card: Contents of `README.md`.
        trust_remote_code: Whether the reload may run the checkpoint's own code.
        keep: Writes what else belongs into the folder, which it is given.

    Raises:
        OutputError: The folder is in use or cannot be written, or the reloaded checkpoint differs.
    """
    with new_folder(folder) as partial:
        model.save_pretrained(partial)
        write_beside(partial, tokenizer, provenance, card)
        keep(partial)
        _check_reload(model, tokenizer, partial, trust_remote_code)


def check_generation_config(model: PreTrainedModel) -> None:
    """Check that transformers will save a model's generation config, which it refuses where settings are at odds.

    Raises:
        ConfigError: It will not.
    """
    if model.can_generate():
        try:
            with TemporaryDirectory() as folder:
                model.generation_config.save_pretrained(folder)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the model's generation_config cannot be saved; change it: {reason}") from error


def write_beside(folder: Path, tokenizer: PreTrainedTokenizerBase, provenance: Provenance, card: str) -> None:
    """Write what goes beside the weights: tokenizer, provenance and card."""
    tokenizer.save_pretrained(folder)
    (folder / PROVENANCE_FILE).write_text(provenance.to_json())
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, trust_remote_code: bool) -> None:
    """Load the tokenizer as a user would and compare token ids.

    Raises:
        OutputError: The reloaded tokenizer differs.
    """
    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if again(CHECK_TEXT).input_ids != tokenizer(CHECK_TEXT).input_ids:
        raise OutputError("the saved tokenizer does not load back as it was: it gives other token ids.")


def _check_reload(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, trust_remote_code: bool) -> None:
    """Load the folder as a user would, compare every weight, and generate a few tokens."""
    reloaded = auto_class(model.config).from_pretrained(folder, dtype=model.dtype, trust_remote_code=trust_remote_code)
    theirs = reloaded.state_dict()
    offloaded = any(has_offloaded_params(module) for module in model.modules())
    for name, tensor in (offloaded_state_dict(model) if offloaded else model.state_dict()).items():
        if name not in theirs or not torch.equal(tensor.cpu(), theirs[name].cpu()):
            raise OutputError(f"the saved checkpoint does not load back as it was: {name} differs.")
    check_tokenizer(tokenizer, folder, trust_remote_code)
    ids = torch.tensor([tokenizer(CHECK_TEXT).input_ids], device=reloaded.device)
    reloaded.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
