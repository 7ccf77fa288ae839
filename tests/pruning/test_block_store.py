"""Runs that are cut off: what is finished stays, and the same command ends with the same bits."""

import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import OutputError
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.pruning import refine
from optimum_ssgr.pruning.block_store import open_block_store
from optimum_ssgr.reasoner import NAME, WEIGHTS

from ..processes import started
from .test_layerwise import random_sequences


SEQUENCES = random_sequences((60, 90, 40, 75, 110, 35))


def run(folder, mode="resident"):
    """Prune the embedded reasoner."""
    pruner = SSGRPruner.from_pretrained(NAME, streaming=mode == "streaming")
    data = Dataset.from_dict({"input_ids": SEQUENCES})
    config = PruningConfig(method="sparsegpt", sparsity=0.5, refine=("swaps", "blocks") if mode == "refined" else ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refine, "MOST_EPOCHS", 2)
        pruner.prune(data, config, journal_dir=folder / "journal")
    pruner.save_pretrained(folder / "out")


def weights_in(folder):
    return {key: tensor for path in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(path).items()}


def finished_blocks(folder):
    return sorted(path.name for path in (folder / "journal").glob("block-*.safetensors"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folders = {}
    for mode in ("resident", "streaming", "refined"):
        folders[mode] = tmp_path_factory.mktemp(mode)
        run(folders[mode], mode)
    return folders


def test_a_model_in_memory_uses_the_files_of_its_finished_blocks_and_outlives_them(tmp_path, uninterrupted):
    pruner = SSGRPruner.from_pretrained(NAME)
    pruner.prune(Dataset.from_dict({"input_ids": SEQUENCES}), PruningConfig(sparsity=0.5), journal_dir=tmp_path / "journal")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert all(str(path) in maps.read_text() for path in (tmp_path / "journal").glob("block-*.safetensors"))
    shutil.rmtree(tmp_path / "journal")
    held, saved = pruner.model.state_dict(), weights_in(uninterrupted["resident"] / "out")
    assert all(torch.equal(held[key], tensor) for key, tensor in saved.items())
    for parameter in pruner.model.parameters():
        parameter.data.zero_()  # which no file would let


@pytest.mark.slow
@pytest.mark.parametrize("mode, after", [("resident", 1), ("resident", 3), ("streaming", 1), ("streaming", 3), ("refined", 2)])
def test_killed_and_run_again_gives_the_same_bits(tmp_path, uninterrupted, mode, after):
    with started(run, tmp_path, mode, cwd=tmp_path) as running:
        while len(finished_blocks(tmp_path)) < after:
            assert running.process.is_alive(), running.err.read_text()
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
    assert after <= len(finished_blocks(tmp_path)) <= 4
    assert not (tmp_path / "out").exists()
    run(tmp_path, mode)
    ours, theirs = ({path.name: path.read_bytes() for path in (f / "out").iterdir()} for f in (tmp_path, uninterrupted[mode]))
    assert ours == theirs


def prune(folder, config, sequences=6, change=None):
    pruner = SSGRPruner.from_pretrained(NAME)
    if change:
        change(pruner.model)
    pruner.prune(Dataset.from_dict({"input_ids": SEQUENCES[:sequences]}), config, journal_dir=folder)
    return pruner


@pytest.fixture
def begun(tmp_path, uninterrupted):
    """A journal with two finished blocks."""
    shutil.copytree(uninterrupted["resident"] / "journal", tmp_path / "journal")
    for name in finished_blocks(tmp_path)[2:]:
        (tmp_path / "journal" / name).unlink()
    return tmp_path / "journal"


def double_a_weight(model):
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] *= 2


def double_an_embedding(model):
    model.model.embed_tokens.weight.data[5, 0] *= 2


@contextmanager
def one_thread_after():
    try:
        yield
    finally:
        torch.set_num_threads(1)


def test_a_streamed_model_with_other_embeddings_does_not_go_on(tmp_path):
    shutil.copytree(WEIGHTS, tmp_path / "model")
    data = Dataset.from_dict({"input_ids": SEQUENCES})

    def prune_streamed():
        pruner = SSGRPruner.from_pretrained(str(tmp_path / "model"), streaming=True)
        pruner.prune(data, PruningConfig(method="wanda"), journal_dir=tmp_path / "journal")

    prune_streamed()
    prune_streamed()
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.embed_tokens.weight"][5, 0] *= 2
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(OutputError, match="other_weights was"):
        prune_streamed()


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"config": PruningConfig(sparsity=0.6)}, "pruning was .*0.5.* and is now .*0.6"),
        ({"config": PruningConfig(), "sequences": 5}, "calibration was"),
        ({"config": PruningConfig(), "change": double_a_weight}, r"the weights of model\.layers\.1 are not those"),
        ({"config": PruningConfig(), "change": double_an_embedding}, "other_weights was .* and is now"),
        ({"config": PruningConfig(), "change": lambda model: model.bfloat16()}, "dtype was float32 and is now bfloat16"),
        ({"config": PruningConfig(), "change": lambda _: torch.set_num_threads(2)}, "threads was 1 and is now 2"),
    ],
    ids=["config", "calibration", "weights", "embeddings", "dtype", "threads"],
)
def test_another_run_does_not_go_on(begun, changed, named):
    before = {path.name: path.read_bytes() for path in begun.glob("*.safetensors")}
    with pytest.raises(OutputError, match=named), one_thread_after():
        prune(begun, **changed)
    assert before == {path.name: path.read_bytes() for path in begun.glob("*.safetensors")}


def test_a_damaged_block_is_named(begun):
    [_, second] = sorted(begun.glob("block-*.safetensors"))
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OutputError, match=r"block-00001\.safetensors is damaged; remove it and run the same command again"):
        prune(begun, PruningConfig())
    second.unlink()
    prune(begun, PruningConfig())
    assert second.read_bytes() == whole


def test_a_flipped_bit_in_a_finished_block_is_found(begun):
    [_, second] = sorted(begun.glob("block-*.safetensors"))
    flipped = bytearray(second.read_bytes())
    flipped[-5] ^= 1
    second.write_bytes(flipped)
    with pytest.raises(OutputError, match=r"block-00001\.safetensors is damaged; remove it"):
        prune(begun, PruningConfig())


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"\xff\xfe"])
def test_a_damaged_sidecar_is_named(begun, content):
    (begun / "block-00001.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"block-00001\.safetensors is damaged; remove it"):
        prune(begun, PruningConfig())


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"\xff\xfe"])
def test_a_damaged_fingerprint_is_named(begun, content):
    (begun / "fingerprint.json").write_bytes(content)
    with pytest.raises(OutputError, match="is damaged; remove"):
        prune(begun, PruningConfig())


def test_two_processes_do_not_share_a_journal(begun):
    with open_block_store(begun), pytest.raises(OutputError, match="another process is writing into"):
        prune(begun, PruningConfig())
    prune(begun, PruningConfig())


@pytest.mark.slow
def test_full_disk_keeps_what_is_finished(tmp_path, uninterrupted):
    """Files may not grow beyond a size that lets the journal begin but not a block be written; then they may again."""
    with started(run, tmp_path, cwd=tmp_path, file_size=1_000_000) as running:
        assert running.wait() != 0
        assert "make room and run the same command again to go on" in running.err.read_text()
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "journal").glob("*.partial")] == []
    run(tmp_path)
    ours, theirs = weights_in(tmp_path / "out"), weights_in(uninterrupted["resident"] / "out")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
