"""Models larger than memory: weights straight from safetensors, one part of the model at a time."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
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
    LoadingRules,
    is_saved,
    kept_in_float32,
    own_buffers,
    own_parameters,
    set_origin,
    undo_conversion,
    without_initialisation,
)
from ..errors import DataError, ModelError, OutputError
from ..files import new_folder
from ..formats import Provenance
from ..hub.client import limited_silence
from ..hub.names import split_revision
from ..pruning.blocks import find_blocks
from ..pruning.weights import modules_outside
from .inspect import INDEX, checkpoint_files, fetch_weights
from .load import LOADING_ERRORS, auto_class, cannot_load, commit_of, dtype_of, revision_of, source_of
from .save import CHECK_TEXT, check_tokenizer, write_beside


if TYPE_CHECKING:
    from ..compat import WeightConverter


_INSTEAD = "save it dequantized first, or load it without streaming, where transformers may dequantize it."
# Narrower floats, and integers where the model has floats, are quantized weights.
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


@dataclass(frozen=True)
class Stored:
    """What the header of a file says of a tensor.

    Args:
        path: The file.
        dtype: Type of the entries as safetensors calls it, such as BF16.
    """

    path: Path
    dtype: str


@dataclass
class Place:
    """Where a tensor of the model is stored.

    Args:
        parts: Files, names in them, and which of the converter's patterns each name fits; one part without a converter.
        converter: What puts the parts together, where transformers holds as one what the checkpoint stores in parts.
    """

    parts: list[tuple[Path, str, str | None]]
    converter: "WeightConverter | None"


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
        self.device = device
        self.dtype = model.dtype
        self.config = model.config
        self._model = model  # whose shapes some converters ask for
        self._kept_in_float32 = kept_in_float32(model)
        self._places = find_places(_stored_tensors(folder), model, str(folder))
        self._tied: dict[str, str] = dict(model.all_tied_weights_keys)
        for target, source in self._tied.items():
            if target in self._places and source in self._places and torch.equal(self.read(target), self.read(source)):
                del self._places[target]  # transformers ties them only if they are equal
            elif source not in self._places:
                self._places[source] = self._places.pop(target)

    def stores_alike(self, block: str) -> bool:
        """Tell whether the checkpoint stores a block as the model holds it: tensor by tensor, under the same names."""
        places = {name: place for name, place in self._places.items() if name.startswith(f"{block}.")}
        return all(place.converter is None and place.parts[0][1] == name for name, place in places.items())

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
        place = self._places[name if name in self._places else self._tied[name]]
        if place.converter is None:
            [(path, key, _)] = place.parts
            tensor = _read_stored(path, key)
        else:
            converter = copy.deepcopy(place.converter)
            for path, key, pattern in place.parts:
                converter.add_tensor(name, key, pattern, partial(_read_stored, path, key))
            tensor = converter.convert(name, model=self._model, config=self.config)[name]
        dtype = torch.float32 if self._kept_in_float32(name) else self.dtype
        return tensor.to(self.device, dtype if tensor.is_floating_point() else None)

    def make_probe(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return a model like this one that is wholly on the meta device, so that running it takes no weights."""
        with torch.device("meta"):
            return type(model)(copy.deepcopy(model.config)).eval()

    @contextmanager
    def onload_embeddings(self, model: PreTrainedModel) -> Iterator[None]:
        """Hold everything outside of the blocks but the output head."""
        head = model.get_output_embeddings()
        with self._held({name: module for name, module in modules_outside(model).items() if module is not head}):
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
            with self._held(modules_outside(model)):
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
            folder = fetch_weights(source, revision, token)
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
        keep: Writes what else belongs into the folder, which it is given.

    Raises:
        OutputError: The folder is in use or cannot be written, or what was written does not run.
    """
    block_names = tuple(find_blocks(model))
    if len(blocks) != len(block_names):
        raise OutputError("pruned blocks are missing from the journal; run the same command again to prune them anew.")
    prefixes = tuple(f"{name}." for name in block_names)
    rest = [name for name in weights.names if not name.startswith(prefixes)]
    with new_folder(folder) as partial:
        count = len(blocks) + len(rest)
        files: dict[str, list[str]] = {}
        for number, (name, path) in enumerate([*zip(block_names, blocks, strict=True), *((name, None) for name in rest)], 1):
            file_name = f"model-{number:05d}-of-{count:05d}.safetensors"
            if path and weights.stores_alike(name):
                _link(path, partial / file_name)
            else:  # other programs know the original's names and parts only
                tensors = load_file(path) if path else {name: weights.read(name).cpu()}
                parts = undo_conversion(model, tensors)
                save_file({key: _on_its_own(part) for key, part in parts.items()}, partial / file_name, {"format": "pt"})
            with safe_open(partial / file_name, framework="pt") as file:
                files[file_name] = list(file.keys())
        size = sum((partial / name).stat().st_size for name in files)
        index = {"metadata": {"total_size": size}, "weight_map": {key: name for name, keys in files.items() for key in keys}}
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(partial)
        model.generation_config.save_pretrained(partial)
        write_beside(partial, tokenizer, provenance, card)
        keep(partial)
        check_tokenizer(tokenizer, partial, trust_remote_code)
        again, _, written = load_streamed(str(partial), dtype=model.dtype, trust_remote_code=trust_remote_code)
        if not written.run(again, torch.tensor([tokenizer(CHECK_TEXT).input_ids])).isfinite().all():
            raise OutputError("the saved checkpoint does not run: its outputs are not finite.")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy(source, target)


def _on_its_own(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that shares no memory with others; a copy only where it did."""
    shares = tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone(memory_format=torch.contiguous_format) if shares else tensor.contiguous()


def _stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return what the headers say of every stored tensor.

    Raises:
        ModelError: There are no safetensors files, or damaged ones.
    """
    stored: dict[str, Stored] = {}
    try:
        paths = checkpoint_files(folder)
    except DataError as error:
        raise ModelError(f"{str(error).rstrip('.')}; only a whole safetensors checkpoint can be streamed.") from None
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                stored |= {key: Stored(path, file.get_slice(key).get_dtype()) for key in list(file.keys())}
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged ({error}); download it again.") from None
    return stored


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the type of the first stored tensor of floats, which is what transformers takes where a config names none."""
    return next((FLOATS[tensor.dtype] for tensor in _stored_tensors(folder).values() if tensor.dtype in FLOATS), torch.float32)


def _refuse_quantized(config: PretrainedConfig, checkpoint: str) -> None:
    for part in (config, config.get_text_config(decoder=True)):
        if getattr(part, "quantization_config", None) is not None:
            raise ModelError(f"the checkpoint {checkpoint} is quantized, so it cannot be streamed; {_INSTEAD}")


def find_places(stored: Mapping[str, Stored], model: PreTrainedModel, checkpoint: str) -> dict[str, Place]:
    """Find the stored tensors of every tensor of a model, by the rules that transformers itself loads with.

    Like transformers, note in the model which of the rules were used: they are undone when its tensors are saved.

    Args:
        stored: All stored tensors by name.
        model: The model on the meta device.
        checkpoint: What to call the checkpoint in an error.

    Raises:
        ModelError: Some tensor is not stored, or stored quantized, or as a part of something larger.
    """
    wanted = model.state_dict()
    rules = LoadingRules(model)
    places: dict[str, Place] = {}
    for key, name, pattern, converter in rules.match(stored, wanted):
        if name in wanted:
            if wanted[name].is_floating_point() and stored[key].dtype not in FLOATS:
                raise ModelError(
                    f"the checkpoint {checkpoint} holds {key} as {stored[key].dtype}, that is, quantized, so it cannot be "
                    f"streamed; {_INSTEAD}"
                )
            place = places.setdefault(name, Place([], converter))
            place.parts.append((stored[key].path, key, pattern))
    rules.note_used()
    tied = dict(model.all_tied_weights_keys)
    for name in wanted:
        if name not in places and tied.get(name) not in places and not any(tied.get(key) == name for key in places):
            raise ModelError(
                f"the checkpoint {checkpoint} does not hold {name} under that name, so it cannot be streamed; "
                "load the model without streaming."
            )
    return places


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
        stored = {key: Stored(Path(name), info.dtype) for name, file in files.items() for key, info in file.tensors.items()}
    find_places(stored, skeleton, model_id)


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
