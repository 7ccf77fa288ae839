"""A key-value cache that is not copied when a token is added or a row ends."""

from collections.abc import Sequence

import torch
from transformers.cache_utils import DynamicLayer


SPARE_COLUMNS = 256


class RoomyLayer(DynamicLayer):
    """One layer's keys and values in buffers with spare room, where `DynamicLayer` concatenates and so copies all of them.

    The buffers are [places, heads, columns, head size]. Their first rows are in use and end together at column `end`; `keys`
    and `values` are views of them. What is left of a shorter row is finite, and the attention mask must hide it.

    Args:
        like: A layer with keys and values of the right shape, type and device; nothing is taken from it.
        places: Most rows at a time. Once none will join any more it may be lowered to the rows in use, and the next buffers
            take that much less.
    """

    def __init__(self, like: DynamicLayer, places: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True
        self.places = places
        self.keys, self.values = like.keys[:0, :, :0], like.values[:0, :, :0]
        self._make_room(0)

    def _make_room(self, width: int) -> None:
        """Move to new buffers whose first `width` columns end with those in use."""
        rows, heads, used, _ = self.keys.shape
        buffers = []
        for states in (self.keys, self.values):
            buffer = states.new_zeros(self.places, heads, width + SPARE_COLUMNS, states.shape[-1])
            buffer[:rows, :, width - used : width] = states
            buffers.append(buffer)
        self.buffers, self.end = buffers, width

    def _show(self, rows: int, width: int) -> None:
        self.keys, self.values = (buffer[:rows, :, self.end - width : self.end] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of new tokens, [rows, heads, tokens, head size], right of the others; see `DynamicLayer.update`."""
        rows, _, tokens, _ = key_states.shape
        width = self.keys.shape[2]
        if self.end + tokens > self.buffers[0].shape[2]:
            self._make_room(width)
        self.end += tokens
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, self.end - tokens : self.end] = states
        self._show(rows, width + tokens)
        return self.keys, self.values

    def join(self, other: DynamicLayer, picked: Sequence[int]) -> None:
        """Append rows of another layer, that ends where this one ends; a row may be picked several times."""
        rows, _, used, _ = self.keys.shape
        added = other.keys.shape[2]
        if added > self.end:
            self._make_room(added)
        for buffer, states in zip(self.buffers, (other.keys, other.values), strict=True):
            buffer[rows : rows + len(picked), :, self.end - added : self.end] = states[picked]
        self._show(rows + len(picked), max(used, added))

    def keep(self, order: Sequence[int], width: int) -> None:
        """Let row `order[i]` be row i, and drop the others and all but the last `width` columns."""
        moved = [row for row, source in enumerate(order) if source != row]
        if moved:
            sources = [order[row] for row in moved]
            for buffer, states in zip(self.buffers, (self.keys, self.values), strict=True):
                buffer[moved, :, self.end - width : self.end] = states[sources, :, states.shape[2] - width :]
        self._show(len(order), width)
