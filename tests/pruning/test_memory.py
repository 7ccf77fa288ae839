"""What the library does to the heap of its host process."""

import ctypes

from datasets import Dataset

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.reasoner import WEIGHTS


def test_streaming_trims_the_heap_but_sets_nothing_for_the_process(tmp_path, monkeypatch):
    called, library = [], ctypes.CDLL

    class Recorded(library):
        def __getattr__(self, name):
            called.append(name)
            return super().__getattr__(name)

    monkeypatch.setattr(ctypes, "CDLL", Recorded)
    pruner = SSGRPruner.from_pretrained(str(WEIGHTS), streaming=True)
    pruner.prune(Dataset.from_dict({"input_ids": [[3, 4, 5, 6]]}), PruningConfig(), journal_dir=tmp_path / "journal")
    assert "malloc_trim" in called
    assert "mallopt" not in called
