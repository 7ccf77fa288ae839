"""What the library gives back to the system, and what it does to its host process."""

import ctypes
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.pruning import memory
from optimum_ssgr.pruning.block_store import BlockStore
from optimum_ssgr.pruning.capture import check_chain, probe_outputs
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.memory import release_pages, same_values
from optimum_ssgr.reasoner import WEIGHTS


MAPPED = 2**25


@pytest.fixture
def stored(tmp_path):
    save_file({"weight": torch.arange(MAPPED // 4, dtype=torch.float32)}, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


@pytest.fixture
def loaded(tmp_path_factory):
    """A model of eight blocks of 14 MB, all of them in one file."""
    folder, sizes = tmp_path_factory.mktemp("model"), {"hidden_size": 256, "intermediate_size": 4096, "num_hidden_layers": 8}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, vocab_size=64)).save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder).eval()


def mapped(path):
    """A tensor whose pages are those of the file until it is written to."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("weight")


def held(kind):
    return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(f"Rss{kind}:"))


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux what is held")
def test_pages_of_files_are_released_and_come_back_and_those_written_to_stay(stored):
    tensor = mapped(stored)
    tensor[: len(tensor) // 2] = -1
    expected, before = tensor.clone(), held("File")
    release_pages(tensor)
    assert held("File") < before - MAPPED // 4
    assert torch.equal(tensor, expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux what is held")
def test_a_look_at_the_whole_model_holds_one_block_of_what_lies_in_files_at_a_time(loaded):
    blocks, seen = list(loaded.model.layers), [held("File")]
    for block in blocks:
        block.register_forward_hook(lambda *_: seen.append(held("File")))
    with torch.no_grad():
        outputs = probe_outputs(loaded, blocks, torch.tensor([[1, 2, 3]]))
        check_chain(loaded, blocks, outputs, torch.tensor([[1, 2, 3]]))
    assert len(seen) > 2 * len(blocks)
    assert max(seen) - seen[0] < 3 * sum(parameter.nbytes for parameter in blocks[0].parameters())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux what is held")
def test_finished_blocks_of_a_model_that_lies_in_a_file_take_no_memory(loaded, tmp_path):
    blocks, before = list(loaded.model.layers), held("Anon")
    size = sum(parameter.nbytes for parameter in blocks[0].parameters())
    prune_layerwise(loaded, [], PruningConfig(method="magnitude"), journal=BlockStore(tmp_path))
    memory.trim_heap()
    assert held("Anon") - before < 3 * size < len(blocks) / 2 * size
    assert all(block.mlp.up_proj.weight.count_nonzero() == block.mlp.up_proj.weight.numel() / 2 for block in blocks)


@pytest.mark.parametrize("piece", [2**30, 2**12])
def test_what_is_compared_a_piece_at_a_time_is_compared_to_the_last_entry(stored, piece, monkeypatch):
    monkeypatch.setattr(memory, "COMPARED_BYTES", piece)
    tensor, changed = mapped(stored), mapped(stored)
    changed[-1] = 0
    assert same_values(tensor, mapped(stored))
    assert torch.equal(tensor, mapped(stored))  # as it was
    assert not same_values(changed, mapped(stored))
    assert not same_values(tensor, mapped(stored)[1:])
    assert not same_values(tensor, mapped(stored).double())
    assert same_values(torch.tensor(3), torch.tensor(3)) and same_values(torch.ones(0, 4), torch.ones(0, 4))
