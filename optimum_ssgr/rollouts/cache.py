"""A key-value cache that is not copied when a token is added or a row ends, and which models one serves."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from ..errors import ModelError


SPARE_COLUMNS = 256
# Layers that keep a key and a value for every token, all or the last ones, or nothing.
_SERVED = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


def check_batchable(config: PretrainedConfig, name: str) -> None:
    """Refuse a model that keeps more than keys and values: a recurrent state also takes in what an attention mask hides.

    Args:
        config: The model's config, from which transformers knows what its layers keep.
        name: What to call the model.

    Raises:
        ModelError: It does.
    """
    try:
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    except KeyError:  # a kind of layer that belongs to the model alone
        kinds = {None}
    if not kinds.issubset(_SERVED):
        raise cannot_batch(name)


def cannot_batch(name: str) -> ModelError:
    """Say in one sentence that a model generates with a server only."""
    return ModelError(
        f"{name} keeps a state that the in-process engine cannot batch; "
        "generate with a server instead (--engine http://host:port/v1)."
    )


class PreallocatedKVLayer(DynamicLayer):
    """One layer's keys and values in buffers with spare columns, where `DynamicLayer` concatenates and so copies all of them.

    The buffers are [rows, heads, columns, head size]. The first rows are in use and end together at column `end`; `keys` and
    `values` are views of them:

                     <------ width ------>
        row 0   . . . p p p r r r r r r r _ _ _     p: prompt, r: response
        row 1   . . . . . . p p r r r r r _ _ _     .: whatever was there before; the attention mask must hide it
        row 2   . . . . . . . . . . . . . _ _ _     _: spare columns
                                         ^ end

    Since the rows end together, the next token of every row goes into one column: a single write, whatever the rows' lengths.

    Args:
        like: A layer with keys and values of the right shape, type and device; nothing is taken from it.
        max_rows: Most rows at a time. Once none will join any more it may be lowered to the rows in use, and the next buffers
            take that much less.
    """

    def __init__(self, like: DynamicLayer, max_rows: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True
        self.max_rows = max_rows
        self.keys, self.values = like.keys[:0, :, :0], like.values[:0, :, :0]
        self._grow(0)

    def _grow(self, width: int) -> None:
        """Move to new buffers whose first `width` columns end with those in use, and that have spare ones again.

        It happens once in `SPARE_COLUMNS` tokens. Columns left of the views are not taken along.
        """
        rows, heads, used, _ = self.keys.shape
        buffers = []
        for states in (self.keys, self.values):
            # Zeros and not empty: what the mask hides is multiplied by 0, which does not hide a NaN.
            buffer = states.new_zeros(self.max_rows, heads, width + SPARE_COLUMNS, states.shape[-1])
            buffer[:rows, :, width - used : width] = states
            buffers.append(buffer)
        self.buffers, self.end = buffers, width

    def _set_views(self, rows: int, width: int) -> None:
        """Have `keys` and `values`, which transformers reads, show the first rows' last columns."""
        self.keys, self.values = (buffer[:rows, :, self.end - width : self.end] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of new tokens, [rows, heads, tokens, head size], right of the others; see `DynamicLayer.update`."""
        rows, _, tokens, _ = key_states.shape
        width = self.keys.shape[2]
        if self.end + tokens > self.buffers[0].shape[2]:
            self._grow(width)
        self.end += tokens
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, self.end - tokens : self.end] = states
        self._set_views(rows, width + tokens)
        return self.keys, self.values

    def join(self, other: DynamicLayer, picked: Sequence[int]) -> None:
        """Append rows of another layer, right-aligned with those in use; a row may be picked several times."""
        rows, _, used, _ = self.keys.shape
        added = other.keys.shape[2]
        if added > self.end:  # a prompt is longer than everything so far, and would begin left of the buffers
            self._grow(added)
        for buffer, states in zip(self.buffers, (other.keys, other.values), strict=True):
            buffer[rows : rows + len(picked), :, self.end - added : self.end] = states[picked]
        self._set_views(rows + len(picked), max(used, added))

    def compact(self, order: Sequence[int], width: int) -> None:
        """Let row `order[i]` be row i, and drop the others and all but the last `width` columns.

        Only rows that change their number are copied. Dropped columns cost nothing: the views begin further right.
        """
        moved = [row for row, source in enumerate(order) if source != row]
        if moved:
            sources = [order[row] for row in moved]
            # The right-hand side is a copy, since it is indexed by a list: rows may even change places.
            for buffer, states in zip(self.buffers, (self.keys, self.values), strict=True):
                buffer[moved, :, self.end - width : self.end] = states[sources, :, states.shape[2] - width :]
        self._set_views(len(order), width)
