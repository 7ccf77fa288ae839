"""Save a pruned model so that it loads anywhere, and prove it before saying so."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConfigError, ModelError, OutputError
from ..files import new_folder
from ..formats import CARD_FILE, PROVENANCE_FILE, Provenance
from ..pruning.blocks import find_blocks
from ..pruning.memory import same_values
from .carry import carry_files, carry_weights, cast_all, set_dtype, stored_tensors
from .load import auto_class
from .original import (
    has_generation_config,
    is_as_loaded,
    open_source,
    other_dtype,
    state_of,
    tokenizer_files,
)
from .places import changed_parameters, pruned_parameters, take_apart, within
from .streaming import StreamedWeights, load_streamed


CHECK_TEXT = "Reload check: 1 + 1 = 2, <think> and </think>.\n"


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    provenance: Provenance,
    card: str,
    trust_remote_code: bool = False,
    keep: Callable[[Path], object] = lambda folder: None,
    source: Path | None = None,
) -> None:
    """Write model, tokenizer, provenance and card; the folder appears only after a reload gave the same weights back.

    The weights are dense safetensors with zeros, without a quantization config, so that any runtime loads them. Where the
    model's files are at hand and it is as they are but for what was pruned, the checkpoint holds all that they hold, also what
    the model's class does not know; else what the model holds in memory.

    Args:
        model: The pruned model.
        tokenizer: Its tokenizer.
        folder: Where to write.
        provenance: Contents of `ssgr_config.json`.
        card: Contents of `README.md`.
        trust_remote_code: Whether the reload may run the checkpoint's own code.
        keep: Writes what else belongs into the folder, which it is given.
        source: Folder that the model was loaded from; see `original.find_source`.

    Raises:
        OutputError: The folder is in use or cannot be written, or the reloaded checkpoint differs.
    """
    refined = "blocks" in provenance.config.refine
    weights = None if source is None else open_source(model, source, refined)
    with new_folder(folder) as partial:
        if weights is None:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        else:
            tensors = state_of(model)
            _carry(model, tokenizer, partial, weights, lambda block: within(tensors, block), refined, trust_remote_code)
        _write_beside(partial, provenance, card)
        keep(partial)
        _check_reload(model, tokenizer, partial, trust_remote_code)


def save_streamed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    weights: StreamedWeights,
    blocks: Sequence[Path],
    provenance: Provenance,
    card: str,
    trust_remote_code: bool = False,
    keep: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Put a checkpoint together from pruned blocks on disk and all else that the original holds, and run it before saying so.

    Args:
        model: The model, without weights.
        tokenizer: Its tokenizer.
        folder: Where to write.
        weights: What reads the original's tensors.
        blocks: One safetensors file per pruned block, in order; they are linked where nothing has to be changed in them.
        provenance: Contents of `ssgr_config.json`.
        card: Contents of `README.md`.
        trust_remote_code: Whether the reload may run the checkpoint's own code.
        keep: Writes what else belongs into the folder, which it is given.

    Raises:
        OutputError: The folder is in use or cannot be written, or what was written does not run, or differs.
    """
    names = list(find_blocks(model))
    if len(blocks) != len(names):
        raise OutputError("pruned blocks are missing from the journal; run the same command again to prune them anew.")
    files = dict(zip(names, blocks, strict=True))
    with new_folder(folder) as partial:
        refined = "blocks" in provenance.config.refine
        _carry(model, tokenizer, partial, weights, lambda block: load_file(files[block]), refined, trust_remote_code, blocks)
        _write_beside(partial, provenance, card)
        keep(partial)
        check_tokenizer(tokenizer, partial, trust_remote_code)
        held = (item for path in blocks for item in load_file(path).items())
        _check_by_blocks(model, tokenizer, partial, trust_remote_code, held)


def _carry(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    weights: StreamedWeights,
    read_block: Callable[[str], dict[str, torch.Tensor]],
    refined: bool,
    trust_remote_code: bool,
    blocks: Sequence[Path] = (),
) -> None:
    """Write weights, configs, tokenizer and all else of the original, with the pruned matrices in place of its own."""
    stored = stored_tensors(weights.folder)
    changed = changed_parameters(model, refined)
    pruned = {block: {name: weights.place(name) for name in names} for block, names in changed.items()}
    block_of = {key: block for block, places in pruned.items() for place in places.values() for key in place.stored_as}

    @lru_cache(maxsize=1)  # one block is held at a time
    def parts_of(block: str) -> dict[str, torch.Tensor]:
        return take_apart(model, read_block(block), pruned[block])

    matrices = (key for name in pruned_parameters(model) for key in weights.place(name).stored_as)
    dtype = other_dtype(model.dtype, weights.folder, {stored[key].dtype for key in matrices})
    wanted = stored
    if dtype is not None:
        held_as = {key: name for name in weights.names for key in weights.place(name).stored_as}
        wanted = cast_all(stored, dtype, lambda key: weights.stays_in_float32(held_as.get(key, key)))
    carry_weights(stored, target, wanted, block_of, lambda key: parts_of(block_of[key])[key], blocks)

    same_tokenizer = is_as_loaded(tokenizer, weights.folder, trust_remote_code)
    carry_files(weights.folder, target, trust_remote_code, () if same_tokenizer else tokenizer_files(tokenizer))
    if dtype is not None:
        set_dtype(target, dtype)
    if not same_tokenizer:
        tokenizer.save_pretrained(target)
    if model.can_generate() and not has_generation_config(model, weights.folder):
        model.generation_config.save_pretrained(target)


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


def _write_beside(folder: Path, provenance: Provenance, card: str) -> None:
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
    """Load the folder, run it and compare every weight: block by block, so that the model is not held twice.

    What cannot be read so, as models of images and text, is loaded whole.
    """
    check_tokenizer(tokenizer, folder, trust_remote_code)
    with suppress(ModelError):
        _check_by_blocks(model, tokenizer, folder, trust_remote_code, state_of(model).items())
        return
    reloaded = auto_class(model.config).from_pretrained(folder, dtype=model.dtype, trust_remote_code=trust_remote_code)
    theirs = reloaded.state_dict()
    for name, tensor in state_of(model).items():
        if name not in theirs or not torch.equal(tensor.cpu(), theirs[name].cpu()):
            raise _differs(name)
    ids = torch.tensor([tokenizer(CHECK_TEXT).input_ids], device=reloaded.device)
    reloaded.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)


def _check_by_blocks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    trust_remote_code: bool,
    held: Iterable[tuple[str, torch.Tensor]],
) -> None:
    """Run what was written, holding one block at a time, and compare tensors with it.

    Raises:
        ModelError: It cannot be read tensor by tensor.
        OutputError: It does not run, or a tensor differs.
    """
    again, _, written = load_streamed(str(folder), dtype=model.dtype, trust_remote_code=trust_remote_code)
    if not written.run(again, torch.tensor([tokenizer(CHECK_TEXT).input_ids])).isfinite().all():
        raise OutputError("the saved checkpoint does not run: its outputs are not finite.")
    known = again.state_dict().keys()
    for name, tensor in held:
        if name not in known or not same_values(tensor, written.read(name)):
            raise _differs(name)


def _differs(name: str) -> OutputError:
    return OutputError(f"the saved checkpoint does not load back as it was: {name} differs.")
