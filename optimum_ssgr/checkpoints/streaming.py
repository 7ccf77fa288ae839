"""Models larger than memory: weights straight from safetensors, one part of the model at a time."""

import copy
import ctypes
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from ..errors import ModelError, OutputError
from ..output import new_folder
from ..pruning.blocks import find_blocks
from .load import LOADING_ERRORS, cannot_load, dtype_of, source_of
from .save import CHECK_TEXT, check_tokenizer, write_beside


INDEX = "model.safetensors.index.json"
# glibc keeps freed memory unless it was mapped for itself, which this makes it do for what is larger (`man 3 mallopt`).
MAPPED_BYTES = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


class StreamedWeights:
    """The weights are in safetensors files; what is asked for is read, and forgotten afterwards.

    Args:
        folder: Folder of the checkpoint.
        model: The model on the meta device.
        device: Where to compute.

    Raises:
        ModelError: The files do not hold the model's tensors under the model's names.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, device: torch.device) -> None:
        _give_back_freed_memory()
        self.device = device
        self.dtype = model.dtype
        stored = _stored_names(folder)
        prefix = f"{model.base_model_prefix}."
        self._places: dict[str, tuple[Path, str]] = {}
        self._tied: dict[str, str] = dict(model.all_tied_weights_keys)
        for name in model.state_dict():
            found = next((key for key in (name, name.removeprefix(prefix), prefix + name) if key in stored), None)
            if found:
                self._places[name] = (stored[found], found)
            elif name not in self._tied:
                raise ModelError(
                    f"the checkpoint {folder} does not hold {name} under that name, so it cannot be streamed; "
                    "load the model without streaming."
                )

    @property
    def names(self) -> list[str]:
        """Names of all tensors, tied ones once."""
        return list(self._places)

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor.

        Raises:
            ModelError: Its file is damaged.
        """
        path, key = self._places[name if name in self._places else self._tied[name]]
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(key)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged ({error}); download it again.") from None
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def probed(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model like this one that is wholly on the meta device, so that running it takes no weights."""
        with torch.device("meta"):
            return type(model)(copy.deepcopy(model.config)).eval()

    @contextmanager
    def around(self, model: PreTrainedModel) -> Iterator[None]:
        """Hold what comes before the blocks: everything outside of them but the output head."""
        head = model.get_output_embeddings()
        with self._held({name: module for name, module in _outside(model).items() if module is not head}):
            yield

    @contextmanager
    def block(self, name: str, block: nn.Module) -> Iterator[None]:
        """Hold a block's weights; what is done to them is lost unless it is written elsewhere."""
        with self._held({f"{name}.{child}".rstrip("."): module for child, module in block.named_modules()}):
            yield

    @torch.no_grad()
    def run(self, model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
        """Run some tokens through the whole model, holding one block at a time, and return the logits."""
        stack = ExitStack()

        def bring_in(name: str, block: nn.Module, _: object) -> None:
            stack.enter_context(self.block(name, block))

        hooks = []
        for name, block in find_blocks(model).items():
            hooks.append(block.register_forward_pre_hook(partial(bring_in, name)))
            hooks.append(block.register_forward_hook(lambda *_: stack.close()))
        try:
            with self._held(_outside(model)):
                return model(ids.to(self.device), use_cache=False).logits
        finally:
            stack.close()
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _held(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Fill the modules' own parameters, and empty them again."""
        empty = [(module, dict(module._parameters)) for module in modules.values()]
        try:
            for name, module in modules.items():
                for key, parameter in module._parameters.items():
                    if parameter is not None:
                        module._parameters[key] = nn.Parameter(self.read(f"{name}.{key}"), requires_grad=False)
                for key, buffer in module._buffers.items():
                    if buffer is not None and key not in module._non_persistent_buffers_set:
                        module._buffers[key] = self.read(f"{name}.{key}")
            yield
        finally:
            for module, parameters in empty:
                module._parameters.update(parameters)


def load_streamed(
    model_id: str,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, StreamedWeights]:
    """Load a model without its weights, its tokenizer, and what reads the weights when they are needed.

    Args:
        model_id: Hub id, local folder, or `tiny-reasoner` for the embedded model.
        revision: Branch, tag or commit on the Hub.
        dtype: Weight type; `auto` keeps the checkpoint's own.
        device_map: Device to compute on, such as `cuda`; the CPU when None.
        trust_remote_code: Whether code from the checkpoint may run.
        token: Hub token.

    Raises:
        ModelError: The model cannot be loaded, or its files cannot be read piece by piece.
    """
    source = source_of(model_id)
    shared = {"trust_remote_code": trust_remote_code, "token": token}
    try:
        device = torch.device(device_map or "cpu")
    except RuntimeError:
        raise ModelError(f"a streamed model computes on one device, such as cuda or cpu, not '{device_map}'.") from None
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, **shared)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, **shared)
        folder = Path(source)
        if not folder.is_dir():
            folder = Path(snapshot_download(source, revision=revision, token=token, allow_patterns="*.safetensors"))
        wanted = dtype_of(config.dtype or torch.float32 if dtype == "auto" else dtype)
        with init_empty_weights(include_buffers=False), no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=wanted, trust_remote_code=trust_remote_code)
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error
    model.tie_weights()
    for buffers in (module._buffers for module in model.modules()):
        buffers.update({key: buffer.to(device) for key, buffer in buffers.items() if buffer is not None})
    model.config._name_or_path = model_id
    with suppress(OSError):  # not every checkpoint has one
        model.generation_config = GenerationConfig.from_pretrained(source, revision=revision, token=token)
    return model.eval(), tokenizer, StreamedWeights(folder, model, device)


def save_streamed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    weights: StreamedWeights,
    blocks: Sequence[Path],
    provenance: dict[str, Any],
    card: str,
    trust_remote_code: bool = False,
) -> None:
    """Put a checkpoint together from pruned blocks on disk and the original's other tensors, and run it before saying so.

    Args:
        model: The model, without weights.
        tokenizer: Its tokenizer.
        folder: Where to write.
        weights: What reads the original's tensors.
        blocks: One safetensors file per pruned block, in order; they are linked or copied.
        provenance: Contents of `ssgr_config.json`.
        card: Contents of `README.md`.
        trust_remote_code: Whether the reload may run the checkpoint's own code.

    Raises:
        OutputError: The folder is in use or cannot be written, or what was written does not run.
    """
    prefixes = tuple(f"{name}." for name in find_blocks(model))
    rest = [name for name in weights.names if not name.startswith(prefixes)]
    with new_folder(folder) as partial:
        count = len(blocks) + len(rest)
        files: dict[str, list[str]] = {}
        for number, path in enumerate([*blocks, *rest], start=1):
            name = f"model-{number:05d}-of-{count:05d}.safetensors"
            if isinstance(path, str):
                save_file({path: weights.read(path).cpu()}, partial / name, {"format": "pt"})
            else:
                _link(path, partial / name)
            with safe_open(partial / name, framework="pt") as file:
                files[name] = list(file.keys())
        size = sum((partial / name).stat().st_size for name in files)
        index = {"metadata": {"total_size": size}, "weight_map": {key: name for name, keys in files.items() for key in keys}}
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(partial)
        model.generation_config.save_pretrained(partial)
        write_beside(partial, tokenizer, provenance, card)
        check_tokenizer(tokenizer, partial, trust_remote_code)
        again, _, written = load_streamed(str(partial), dtype=model.dtype, trust_remote_code=trust_remote_code)
        if not written.run(again, torch.tensor([tokenizer(CHECK_TEXT).input_ids])).isfinite().all():
            raise OutputError("the saved checkpoint does not run: its outputs are not finite.")


def _give_back_freed_memory() -> None:
    """Have this process give large tensors back to the system once they are freed; other C libraries do so by themselves."""
    with suppress(OSError, AttributeError, TypeError):
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, MAPPED_BYTES)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy(source, target)


def _stored_names(folder: Path) -> dict[str, Path]:
    """Return the file of every stored tensor.

    Raises:
        ModelError: There are no safetensors files, or damaged ones.
    """
    stored: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                stored |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged ({error}); download it again.") from None
    if not stored:
        raise ModelError(f"there are no safetensors files in {folder}; only those can be streamed.")
    return stored


def _outside(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules outside the blocks by name."""
    blocks = tuple(find_blocks(model))
    return {
        name: module
        for name, module in model.named_modules()
        if not any(name == block or name.startswith(f"{block}.") for block in blocks)
    }
