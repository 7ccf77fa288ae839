import copy
import pickle
from operator import add, eq, ne

import numpy as np
import pytest

from optimum_ssgr.records import Rollout
from optimum_ssgr.stored import StoredText, TokenIds


IDS = (5, 3, 150_000, 0, 3)


class Store:
    """Holds ids and counts how often they are read."""

    def __init__(self, ids):
        self.ids, self.reads = np.array(ids, np.int32), 0

    def read(self):
        self.reads += 1
        return self.ids


@pytest.mark.parametrize("ids", [IDS, (7,), ()])
def test_stored_ids_are_as_the_tuple_of_them(ids):
    for stored in (TokenIds(Store(ids).read, len(ids)), TokenIds.hold(ids), TokenIds.hold(TokenIds.hold(list(ids)))):
        assert eq(stored, ids) and eq(ids, stored) and not ne(stored, ids) and eq(stored, TokenIds.hold(ids))
        assert ne(stored, (*ids, 1)) and ne(stored, (*ids[1:], 9)) and ne(stored, list(ids))
        assert hash(stored) == hash(ids) and {stored} == {ids}
        assert (len(stored), tuple(stored), list(reversed(stored))) == (len(ids), ids, list(reversed(ids)))
        assert (add((1, 2), stored), add(stored, (1, 2))) == ((1, 2, *ids), (*ids, 1, 2))
        assert [stored[index] for index in range(-len(ids), len(ids))] == [*ids, *ids]
        assert all(type(one) is int for one in stored)
        for part in (slice(None), slice(2), slice(1, None), slice(-2, None), slice(None, None, -1), slice(1, 9, 2)):
            assert (stored[part] == ids[part]) and len(stored[part]) == len(ids[part])
        array = np.asarray(stored)
        assert array.dtype == np.int32 and array.tolist() == list(ids)
        assert pickle.loads(pickle.dumps(stored)) == copy.deepcopy(stored) == ids
        with pytest.raises(IndexError):
            stored[len(ids)]


def test_a_length_is_known_without_reading():
    store = Store(IDS)
    stored = TokenIds(store.read, len(IDS))
    rollout = Rollout("p", 0, (1,), stored, True)
    assert rollout.response_ids is stored
    assert (len(stored), len(stored[1:3]), store.reads) == (5, 2, 0)
    assert (stored[1:3] == IDS[1:3]) and store.reads == 1


def test_held_ids_take_four_bytes_and_cannot_be_changed():
    rollout = Rollout("p", 0, (1,), list(IDS), True)
    assert rollout == Rollout("p", 0, (1,), IDS, True) and hash(rollout) == hash(Rollout("p", 0, (1,), IDS, True))
    assert np.asarray(rollout.response_ids).nbytes == 4 * len(IDS)
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(rollout.response_ids)[0] = 1


def test_stored_text_is_as_the_string():
    stored = StoredText(lambda: "text")
    assert eq(stored, "text") and eq("text", stored) and eq(stored, StoredText(lambda: "text")) and ne(stored, "other")
    assert hash(stored) == hash("text") and str(stored) == "text" and repr(stored) == "'text'"
    assert type(pickle.loads(pickle.dumps(stored))) is str
