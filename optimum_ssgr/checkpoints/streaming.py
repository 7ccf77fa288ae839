"""Models larger than memory: weights straight from safetensors, one part of the model at a time."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from accelerate import init_empty_weights
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..compat import (
    is_saved,
    kept_in_float32,
    own_buffers,
    own_parameters,
    set_origin,
    without_initialisation,
)
from ..errors import DataError, ModelError
from ..hub.client import limited_silence
from ..hub.names import split_revision
from ..pruning.blocks import find_blocks
from ..pruning.weights import modules_outside
from .carry import fetch_source, stored_tensors
from .load import LOADING_ERRORS, auto_class, cannot_load, commit_of, dtype_of, revision_of, source_of
from .places import SAVE_DEQUANTIZED, Place, check_put_back, find_places
from .tensor_files import FLOATS, StoredTensor


class StreamedWeights:
    """The weights are in safetensors files; what is asked for is read, and forgotten afterwards.

    Args:
        folder: Folder of the checkpoint.
        model: The model on the meta device.
        device: Where to compute.

    Raises:
        ModelError: The files do not hold the model's tensors under the model's names, or hold them quantized.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        self.dtype = model.dtype
        self._model = model  # whose shapes some converters ask for
        self._kept_in_float32 = kept_in_float32(model)
        stored = _stored_tensors(folder)
        self._places = find_places(stored, model, str(folder))
        check_put_back(stored, self._places, model, str(folder))
        self._tied: dict[str, str] = dict(model.all_tied_weights_keys)
        for target, source in self._tied.items():
            if target in self._places and source in self._places and torch.equal(self.read(target), self.read(source)):
                del self._places[target]  # transformers ties them only if they are equal
            elif source not in self._places:
                self._places[source] = self._places.pop(target)

    def place(self, name: str) -> Place:
        """Return where a tensor is stored."""
        return self._places[name if name in self._places else self._tied[name]]

    def stays_in_float32(self, name: str) -> bool:
        """Tell whether transformers keeps a tensor in float32 in a model of lower precision."""
        return self._kept_in_float32(name)

    @property
    def names(self) -> list[str]:
        """Names of all tensors, tied ones once."""
        return list(self._places)

    def outside(self, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
        """Read every tensor outside of the blocks, one after the other."""
        blocks = tuple(f"{name}." for name in find_blocks(model))
        for name in self._places:
            if not name.startswith(blocks):
                yield name, self.read(name)

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor.

        Raises:
            ModelError: Its file is damaged.
        """
        tensor = self.place(name).read(name, self._model, _read_stored)
        dtype = torch.float32 if self._kept_in_float32(name) else self.dtype
        return tensor.to(self.device, dtype if tensor.is_floating_point() else None)

    def make_probe(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model like this one that is wholly on the meta device, so that running it takes no weights."""
        with torch.device("meta"):
            probe = type(model)(copy.deepcopy(model.config)).eval()
        probe.config.pad_token_id = None  # some look for padding among the tokens, which have no values there
        return probe

    @contextmanager
    def onload_embeddings(self, model: PreTrainedModel) -> Iterator[None]:
        """Hold everything outside of the blocks but the output head."""
        head = model.get_output_embeddings()
        with self._held({name: module for name, module in modules_outside(model).items() if module is not head}):
            yield

    @contextmanager
    def onload_outside(self, model: PreTrainedModel) -> Iterator[None]:
        """Hold everything outside of the blocks."""
        with self._held(modules_outside(model)):
            yield

    @contextmanager
    def onload_block(self, name: str, block: nn.Module) -> Iterator[None]:
        """Hold a block's weights; what is done to them is lost unless it is written elsewhere."""
        with self._held({f"{name}.{child}".rstrip("."): module for child, module in block.named_modules()}):
            yield

    @torch.no_grad()
    def run(self, model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
        """Run some tokens through the whole model, holding one block at a time, and return the logits."""
        stack = ExitStack()

        def bring_in(name: str, block: nn.Module, _: object) -> None:
            stack.enter_context(self.onload_block(name, block))

        hooks = []
        for name, block in find_blocks(model).items():
            hooks.append(block.register_forward_pre_hook(partial(bring_in, name)))
            hooks.append(block.register_forward_hook(lambda *_: stack.close()))
        try:
            with self.onload_outside(model):
                return model(ids.to(self.device), use_cache=False).logits
        finally:
            stack.close()
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _held(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Fill the modules' own parameters, and empty them again."""
        empty = [(module, dict(own_parameters(module))) for module in modules.values()]
        try:
            for name, module in modules.items():
                parameters, buffers = own_parameters(module), own_buffers(module)
                for key, parameter in parameters.items():
                    if parameter is not None:
                        parameters[key] = nn.Parameter(self.read(f"{name}.{key}"), requires_grad=False)
                for key, buffer in buffers.items():
                    if buffer is not None and is_saved(module, key):
                        buffers[key] = self.read(f"{name}.{key}")
            yield
        finally:
            for module, parameters in empty:
                own_parameters(module).update(parameters)


@limited_silence()
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
        model_id: Hub id (`ID` or `ID@REVISION`), local folder, or `tiny-reasoner` for the embedded model.
        revision: Branch, tag or commit on the Hub; that of the name when None.
        dtype: Weight type; `auto` keeps the checkpoint's own.
        device_map: Device to compute on, such as `cuda`; the CPU when None.
        trust_remote_code: Whether code from the checkpoint may run.
        token: Hub token.

    Raises:
        ModelError: The model cannot be loaded, or its files cannot be read piece by piece, or hold quantized weights.
    """
    source, commit = source_of(model_id), commit_of(model_id, revision, token)
    revision, shared = commit or revision_of(model_id, revision), {"trust_remote_code": trust_remote_code, "token": token}
    device = _one_device(device_map)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, **shared)
        _refuse_quantized(config, model_id)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, **shared)
        folder = Path(source)
        if not folder.is_dir():
            folder = fetch_source(source, revision, token, trust_remote_code)
        wanted = dtype_of(config.dtype or _stored_dtype(folder) if dtype == "auto" else dtype)
        with init_empty_weights(include_buffers=False), without_initialisation():
            model = auto_class(config).from_config(config, dtype=wanted, trust_remote_code=trust_remote_code)
        for buffers in map(own_buffers, model.modules()):
            buffers.update({key: buffer.to(device) for key, buffer in buffers.items() if buffer is not None})
    except LOADING_ERRORS as error:
        raise cannot_load(model_id, error) from error
    model.tie_weights()
    set_origin(model, split_revision(model_id)[0], commit)
    with suppress(OSError):  # not every checkpoint has one
        model.generation_config = GenerationConfig.from_pretrained(source, revision=revision, token=token)
    return model.eval(), tokenizer, StreamedWeights(folder, model, device)


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return what the headers say of every stored tensor.

    Raises:
        ModelError: There are no safetensors files, or damaged ones.
    """
    try:
        return stored_tensors(folder)
    except DataError as error:
        raise ModelError(f"{str(error).rstrip('.')}; only a whole safetensors checkpoint can be streamed.") from None


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the type of the first stored tensor of floats, which is what transformers takes where a config names none."""
    return next((FLOATS[tensor.dtype] for tensor in _stored_tensors(folder).values() if tensor.dtype in FLOATS), torch.float32)


def _refuse_quantized(config: PretrainedConfig, checkpoint: str) -> None:
    for part in (config, config.get_text_config(decoder=True)):
        if getattr(part, "quantization_config", None) is not None:
            raise ModelError(f"the checkpoint {checkpoint} is quantized, so it cannot be streamed; {SAVE_DEQUANTIZED}")


@limited_silence()
def check_streamable(
    model_id: str,
    skeleton: PreTrainedModel,
    *,
    device_map: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> None:
    """Check that a checkpoint can be read piece by piece; of one on the Hub only the files' headers are fetched.

    Raises:
        ModelError: It cannot, or not onto one device.
    """
    _one_device(device_map)
    _refuse_quantized(skeleton.config, model_id)
    source = source_of(model_id)
    if Path(source).is_dir():
        stored = _stored_tensors(Path(source))
    else:
        try:
            revision = revision_of(model_id, revision)
            files = HfApi().get_safetensors_metadata(source, revision=revision, token=token).files_metadata
        except Exception as error:  # the library raises many kinds
            raise cannot_load(model_id, error) from error
        stored = {
            key: StoredTensor(Path(name), info.dtype, tuple(info.shape), *info.data_offsets)
            for name, file in files.items()
            for key, info in file.tensors.items()
        }
    check_put_back(stored, find_places(stored, skeleton, model_id), skeleton, model_id)


def _one_device(device_map: str | None) -> torch.device:
    """Return the device that a streamed model computes on, the CPU when None."""
    try:
        return torch.device(device_map or "cpu")
    except RuntimeError:
        raise ModelError(f"a streamed model computes on one device, such as cuda or cpu, not '{device_map}'.") from None


def _read_stored(path: Path, key: str) -> torch.Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged ({error}); download it again.") from None
