"""Tables that are larger than what is kept in memory, row groups, and the hash."""

import dataclasses
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from datasets import config as datasets_config

from optimum_ssgr.calibration import batches, tables
from optimum_ssgr.calibration.batches import hash_batches
from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.select import build_set, reselect
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.calibration.tables import ROLLOUT_FEATURES, hash_rollouts, make_rollouts_table
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import OutputError

from .test_dataset import ORIGIN
from .test_strategies import graded, rollout, timed_out


ITEMS = [*graded({f"p{n}": n % 5 for n in range(30)}), timed_out("p0", 9, 17)]
RATES = {f"p{n}": n % 5 / 4 for n in range(30)}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Whatever has more than a few hundred bytes or tokens counts as large."""
    monkeypatch.setattr(batches, "MOST_IN_MEMORY", 500)
    for module in (batches, tables):
        monkeypatch.setattr(module, "TOKENS_IN_BATCH", 120)
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.slow
def test_a_large_set_is_the_same_as_a_small_one(tmp_path, request):
    config = CalibrationConfig(num_sequences=12, strategy="obc")
    whole = build_set(Sources(ITEMS), config, ORIGIN)
    request.getfixturevalue("small")
    parts = build_set(Sources(ITEMS), config, ORIGIN)
    assert parts.rollouts.data.column("response_ids").num_chunks > 10
    assert parts.rollouts.to_list() == whole.rollouts.to_list()
    assert (parts.sequences, parts.manifest) == (whole.sequences, whole.manifest)
    parts.save_to_disk(tmp_path / "set")
    file = pyarrow.parquet.ParquetFile(tmp_path / "set" / "rollouts" / "train.parquet")
    assert file.num_row_groups > 10
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    assert loaded.rollouts.to_list() == whole.rollouts.to_list()
    assert loaded.graded_rollouts() == parts.graded_rollouts() == whole.graded_rollouts() == ITEMS
    again = reselect(loaded, CalibrationConfig(num_sequences=7, strategy="self"))
    assert again.sequences == reselect(whole, CalibrationConfig(num_sequences=7, strategy="self")).sequences
    assert again.manifest.rollouts_hash == whole.manifest.rollouts_hash
    loaded.save_to_disk(tmp_path / "copy")
    for name in ("rollouts/train.parquet", "calibration/train.parquet"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()
    assert not list((tmp_path / "cache").iterdir())  # the files have no names, so that none can stay behind


def test_a_part_of_a_data_set_is_what_counts(small):
    table = make_rollouts_table(ITEMS, RATES)
    part = table.select(range(20, 3, -2))
    assert tables.read_rollouts(part) == [ITEMS[index] for index in range(20, 3, -2)]
    assert hash_rollouts(part) == hash_rollouts(make_rollouts_table([ITEMS[index] for index in range(20, 3, -2)], RATES))


def test_no_room_is_told(small, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(OutputError, match="make room, or name another folder in HF_DATASETS_CACHE"):
        make_rollouts_table(ITEMS, RATES)


@pytest.mark.slow
def test_selecting_does_not_hold_what_is_not_selected(monkeypatch, tmp_path):
    """Of four million tokens 2,000 are selected; what is held meanwhile is far less than their 16 MB."""
    items = [rollout(f"p{n // 4}", n % 4, n % 4 < 2, 10_000) for n in range(400)]
    build_set(Sources(items), CalibrationConfig(num_tokens=2000), ORIGIN).save_to_disk(tmp_path / "set")
    monkeypatch.setattr(batches, "MOST_IN_MEMORY", 2**18)
    for module in (batches, tables):
        monkeypatch.setattr(module, "TOKENS_IN_BATCH", 2**16)
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    again = reselect(loaded, CalibrationConfig(strategy="self", num_tokens=2000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, again.sequences)) == 2000
    assert pyarrow.total_allocated_bytes() - before < 2**20
    assert peak < 4 * 2**20


def test_selecting_reads_what_is_selected(monkeypatch):
    built = build_set(Sources(ITEMS), CalibrationConfig(num_sequences=4), ORIGIN)
    read_ids, read = tables._read_ids, []

    def count(lists, index):
        read.append(len(lists[index]))
        return read_ids(lists, index)

    monkeypatch.setattr(tables, "_read_ids", count)
    items = built.graded_rollouts()
    assert read == [3] * len(ITEMS)  # the prompts
    for strategy in ("ssgr", "self", "rac", "resp", "obc"):
        read.clear()
        chosen = select(Sources(items), CalibrationConfig(strategy=strategy, num_sequences=4))
        assert read == [] and len(chosen) == 4
        ids = [sequence.input_ids for sequence in chosen]
        assert sorted(read) == sorted(len(of) - 3 for of in ids)


ROWS = [
    {"text": "ab", "ids": [1, 2], "flag": True, "number": 1, "share": 0.5},
    {"text": "", "ids": [], "flag": False, "number": 0, "share": 0.0},
    {"text": None, "ids": None, "flag": None, "number": None, "share": None},
    {"text": "c", "ids": [3], "flag": True, "number": 2, "share": -0.5},
    {"text": "ab", "ids": [4, 0], "flag": True, "number": 1, "share": 0.5},
]
SCHEMA = pyarrow.schema(
    {
        "text": pyarrow.string(),
        "ids": pyarrow.list_(pyarrow.int32()),
        "flag": pyarrow.bool_(),
        "number": pyarrow.int32(),
        "share": pyarrow.float64(),
    }
)


def hash_rows(rows, size=100):
    table = pyarrow.Table.from_pylist(rows, SCHEMA)
    return hash_batches(table.to_batches(max_chunksize=size))


def changes():
    """Every way to change one value, and rows that go, come or move."""
    others = {
        "text": ["ab", "ba", "", None, "abc", "a"],
        "ids": [[1, 2], [2, 1], [1], [1, 2, 3], [], None, [0], [None], [1, None], [None, 1]],
        "flag": [True, False, None],
        "number": [0, 1, -1, None],
        "share": [0.5, 0.0, -0.0, None, float("nan")],
    }
    for index, row in enumerate(ROWS):
        for name, values in others.items():
            for value in values:
                if repr(value) != repr(row[name]):
                    yield [*ROWS[:index], row | {name: value}, *ROWS[index + 1 :]]
        yield ROWS[:index] + ROWS[index + 1 :]
        yield [*ROWS[:index], row, *ROWS[index:]]
    yield from ([*ROWS[:a], ROWS[b], *ROWS[a + 1 : b], ROWS[a], *ROWS[b + 1 :]] for b in range(5) for a in range(b))
    for a in range(4):  # what stands in one row moves into the next
        for name, empty in (("text", ""), ("ids", [])):
            joined = (ROWS[a][name] or empty) + (ROWS[a + 1][name] or empty)
            if (joined, empty) != (ROWS[a][name], ROWS[a + 1][name]):
                yield [*ROWS[:a], ROWS[a] | {name: joined}, ROWS[a + 1] | {name: empty}, *ROWS[a + 2 :]]
    yield []


def test_the_hash_covers_every_value():
    different = {repr(rows): rows for rows in [ROWS, *changes()]}
    hashes = {hash_rows(rows) for rows in different.values()}
    assert len(hashes) == len(different) > 100


def test_the_hash_does_not_depend_on_batches():
    for rows in [ROWS, *changes()]:
        assert {hash_rows(rows, size) for size in (1, 2, 3, 100)} == {hash_rows(rows)}
    table = pyarrow.Table.from_pylist(ROWS[:1] + ROWS, SCHEMA)
    assert hash_batches(table.slice(1).to_batches()) == hash_rows(ROWS)  # of a piece that begins within its buffers


def test_the_hash_of_rollouts_covers_every_column():
    table = make_rollouts_table(ITEMS, RATES)
    rows = table.to_list()
    hashes = {hash_rollouts(table)}
    for name in ROLLOUT_FEATURES:
        value = rows[7][name]
        other = {str: "other", int: 77, float: 0.77, list: [77], bool: value is False, type(None): 0.77}[type(value)]
        if name == "kind":
            other = "other"
        changed = [row | {name: other} if index == 7 else row for index, row in enumerate(rows)]
        hashes.add(hash_batches(pyarrow.Table.from_pylist(changed, ROLLOUT_FEATURES.arrow_schema).to_batches()))
    assert len(hashes) == 1 + len(ROLLOUT_FEATURES)


def test_damage_and_kind_are_kept():
    problems = [dataclasses.replace(item.problem, kind="k") for item in ITEMS]
    items = [
        dataclasses.replace(item, problem=problem, damage=n / 2)
        for n, (item, problem) in enumerate(zip(ITEMS, problems, strict=True))
    ]
    assert tables.read_rollouts(make_rollouts_table(items, RATES)) == items
