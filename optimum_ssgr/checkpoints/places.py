"""Where the tensors of a model are stored in its checkpoint, told by the headers of the files, and how they are put back."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from ..compat import LoadingRules, target_names, undo_conversion
from ..errors import ModelError
from ..pruning.blocks import find_blocks, find_matrices
from ..pruning.refine import fitted_parameters
from .tensor_files import FLOATS, StoredTensor


if TYPE_CHECKING:
    from ..compat import WeightConverter


SAVE_DEQUANTIZED = "save it dequantized first, or load it without streaming, where transformers may dequantize it."


@dataclass
class Place:
    """Where a tensor of the model is stored.

    Args:
        converted_to: Name of what a converter makes: the tensor, or the first of several that are stored as one.
        converter: What puts the parts together, or takes the one part apart; None where the tensor is stored as it is.
        parts: Files, names in them, and which of the converter's patterns each name fits; one part without a converter.
    """

    converted_to: str
    converter: "WeightConverter | None"
    parts: list[tuple[Path, str, str | None]] = field(default_factory=list)

    @property
    def stored_as(self) -> list[str]:
        """Names of the parts."""
        return [key for _, key, _ in self.parts]

    def read(self, name: str, model: PreTrainedModel, read_stored: Callable[[Path, str], torch.Tensor]) -> torch.Tensor:
        """Return the tensor.

        Args:
            name: Its name.
            model: The model, whose shapes some converters ask for.
            read_stored: Reads a part.
        """
        if self.converter is None:
            [(path, key, _)] = self.parts
            return read_stored(path, key)
        converter = copy.deepcopy(self.converter)
        for path, key, pattern in self.parts:
            converter.add_tensor(self.converted_to, key, pattern, partial(read_stored, path, key))
        return converter.convert(self.converted_to, model=model, config=model.config)[name]


def find_places(stored: Mapping[str, StoredTensor], model: PreTrainedModel, checkpoint: str) -> dict[str, Place]:
    """Find the stored tensors of every tensor of a model, by the rules that transformers itself loads with.

    Like transformers, note in the model which of the rules were used: they are undone when its tensors are saved.

    Args:
        stored: All stored tensors by name.
        model: The model, which may be on the meta device.
        checkpoint: What to call the checkpoint in an error.

    Raises:
        ModelError: Some tensor is not stored, or stored quantized.
    """
    wanted = model.state_dict()
    rules = LoadingRules(model)
    places: dict[str, Place] = {}
    for key, first, pattern, converter in rules.match(stored, wanted):
        for name in target_names(first, converter):
            if name not in wanted:
                continue
            if wanted[name].is_floating_point() and stored[key].dtype not in FLOATS:
                raise ModelError(
                    f"the checkpoint {checkpoint} holds {key} as {stored[key].dtype}, that is, quantized, so it cannot be "
                    f"streamed; {SAVE_DEQUANTIZED}"
                )
            place = places.setdefault(name, Place(first, converter))
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


def changed_parameters(model: PreTrainedModel, refined: bool) -> dict[str, list[str]]:
    """Return the names of the parameters that pruning changes, by block: those with prunable matrices; what is refined, too."""
    found = {}
    for block_name, block in find_blocks(model).items():
        matrices = find_matrices(block_name, block)
        if refined:
            names = list(fitted_parameters(block, matrices))
        else:
            of = matrices.values()
            names = [matrix.name if matrix.expert is None else matrix.name.rpartition(".")[0] for matrix in of]
        found[block_name] = list(dict.fromkeys(f"{block_name}.{name}" for name in names))
    return found


def pruned_parameters(model: PreTrainedModel, refined: bool = False) -> list[str]:
    """Return the names of the parameters that `changed_parameters` finds, of all blocks."""
    return [name for names in changed_parameters(model, refined).values() for name in names]


def take_apart(
    model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], places: Mapping[str, Place]
) -> dict[str, torch.Tensor]:
    """Return what is stored of some of a model's tensors.

    Args:
        model: The model, in which the rules are noted that it was loaded by.
        tensors: All tensors of a block by name.
        places: Where those are stored that are wanted, by name.

    Returns:
        The stored tensors by name; those that the rules of transformers do not give are missing.
    """
    found = {place.stored_as[0]: tensors[name] for name, place in places.items() if place.converter is None}
    converted = [key for place in places.values() if place.converter is not None for key in place.stored_as]
    if converted:
        undone, prefix = undo_conversion(model, dict(tensors)), f"{model.base_model_prefix}."
        for key in converted:
            for name in (key, prefix + key, key.removeprefix(prefix)):  # which of them is stored, no rule of transformers says
                if name in undone:
                    found[key] = undone[name]
                    break
    return found


def check_put_back(
    stored: Mapping[str, StoredTensor], places: Mapping[str, Place], model: PreTrainedModel, checkpoint: str
) -> None:
    """Check, by shapes alone, that what is pruned can be stored as the checkpoint stores it.

    Args:
        stored: All stored tensors by name.
        places: What `find_places` returned.
        model: The model, which may be on the meta device.
        checkpoint: What to call the checkpoint in an error.

    Raises:
        ModelError: Some stored tensor cannot be made again.
    """
    tied = dict(model.all_tied_weights_keys)
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in model.state_dict().items()}
    for block, names in changed_parameters(model, refined=False).items():
        of_block = {name: places[name if name in places else tied[name]] for name in names}
        converted = {name: place for name, place in of_block.items() if place.converter is not None}
        try:
            parts = take_apart(model, within(state, block), converted)
        except (ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError):  # what takes apart is not ours
            parts = {}
        for key in (key for place in converted.values() for key in place.stored_as):
            if key not in parts or tuple(parts[key].shape) != stored[key].shape:
                raise ModelError(
                    f"the checkpoint {checkpoint} stores {key} in a form that cannot be written again after pruning; load the "
                    "model with transformers, save it with save_original_format=False, and prune what was saved."
                )


def within(tensors: Mapping[str, torch.Tensor], block: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a block."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{block}.")}
