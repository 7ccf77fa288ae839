import torch
from transformers.cache_utils import DynamicLayer

from optimum_ssgr.rollouts.cache import SPARE_COLUMNS, PreallocatedKVLayer


def states(rows, tokens, generator):
    """Keys [rows, 2, tokens, 3] and values [rows, 2, tokens, 5]."""
    return tuple(torch.randn(rows, 2, tokens, size, generator=generator) for size in (3, 5))


def test_every_row_holds_what_was_written_to_it():
    """Rows join, grow far beyond the spare columns, and leave, as they would in caches of their own."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    expected = []  # one pair (keys, values), [2, tokens, size], per row
    layer = None
    for step in range(3 * SPARE_COLUMNS):
        if step % 40 == 0 or not expected:
            fresh = DynamicLayer()
            fresh.update(*states(3, 1 + step % 7 * 50, generator))
            picked = [0, 2, 2, 1][: 6 - len(expected)]
            layer = layer or PreallocatedKVLayer(fresh, max_rows=6)
            layer.join(fresh, picked)
            expected += [(fresh.keys[row], fresh.values[row]) for row in picked]
        new = states(len(expected), 1, generator)
        keys, values = layer.update(*new)
        expected = [
            tuple(torch.cat([old, added[row]], dim=1) for old, added in zip(pair, new, strict=True))
            for row, pair in enumerate(expected)
        ]
        assert layer.get_seq_length() == keys.shape[2] == max(pair[0].shape[1] for pair in expected)
        assert keys.isfinite().all() and values.isfinite().all()
        for row, (own_keys, own_values) in enumerate(expected):
            assert torch.equal(keys[row, :, keys.shape[2] - own_keys.shape[1] :], own_keys)
            assert torch.equal(values[row, :, keys.shape[2] - own_keys.shape[1] :], own_values)
        if step % 13 == 0:
            order = torch.randperm(len(expected), generator=draws)[: int(torch.randint(0, 5, (), generator=draws))].tolist()
            expected = [expected[row] for row in order]
            layer.compact(order, max((pair[0].shape[1] for pair in expected), default=0))
