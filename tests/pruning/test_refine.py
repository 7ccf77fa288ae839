"""Fitting blocks to the dense ones: what it gives, what it must not change, and what it is fitted to."""

import functools

import pytest
import torch
from datasets import Dataset

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.pruning import refine
from optimum_ssgr.pruning.activations import ActivationStore
from optimum_ssgr.pruning.blocks import find_blocks, find_matrices
from optimum_ssgr.pruning.capture import TokenSequence, capture_inputs, probe_outputs
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.refine import fitted_parameters
from optimum_ssgr.pruning.report import PruningReport

from ..models import CONFIGS, MIXTURES, random_model, slow_but
from .test_architectures import WORKING, build
from .test_block_store import weights_in
from .test_layerwise import random_sequences


SEQUENCES = random_sequences((40, 25, 60, 33, 48, 20, 55, 37, 29))
BLOCKS = ("blocks",)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    monkeypatch.setattr(refine, "MOST_EPOCHS", 5)


def states(model, ids):
    """Hidden states behind every block, the last one's before the final norm."""
    found = []
    hooks = [
        block.register_forward_hook(lambda _, args, output: found.append(output[0] if isinstance(output, tuple) else output))
        for block in find_blocks(model).values()
    ]
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [of.flatten(0, -2).double() for of in found]


def errors(dense, sparse, sequences, skip=0):
    """Relative squared error behind every block."""
    pairs = [zip(states(dense, ids), states(sparse, ids), strict=True) for ids in sequences]
    off, whole = 0, 0
    for pair in pairs:
        pair = list(pair)
        off = off + torch.stack([(of - by)[skip:].square().sum() for of, by in pair])
        whole = whole + torch.stack([of[skip:].square().sum() for of, _ in pair])
    return (off / whole).tolist()


def pruned(name="llama", sequences=SEQUENCES, change=lambda model: model, **settings):
    model = change(random_model(name))
    config = PruningConfig(**{"method": "wanda", "sparsity": 0.6} | settings)
    return model, prune_layerwise(model, sequences, config)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
@pytest.mark.parametrize("true_sequential", [False, True])
def test_every_block_comes_closer_to_the_dense_one(method, true_sequential):
    settings = {"method": method, "true_sequential": true_sequential}
    (before, _), (after, reports) = pruned(**settings), pruned(**settings, refine=BLOCKS)
    dense = random_model("llama")
    unseen = random_sequences((50, 45), seed=7)
    for first, second in zip(errors(dense, before, unseen), errors(dense, after, unseen), strict=True):
        assert second < 0.98 * first
    for report in reports:
        assert report.block.after < report.block.before
    assert len({report.block for report in reports}) == 2


def test_the_report_tells_the_error_on_the_sequences_held_out():
    """Of nine the fifth shortest; of the first block, whose inputs are those of the dense model."""
    held_out = [sorted(SEQUENCES, key=len)[4]]
    (before, _), (after, reports) = pruned(), pruned(refine=BLOCKS)
    dense = random_model("llama")
    told, *_ = (report.block for report in reports)
    assert told.before == pytest.approx(errors(dense, before, held_out)[0], rel=1e-4)
    assert told.after == pytest.approx(errors(dense, after, held_out)[0], rel=1e-4)
    last = reports[-1].block
    assert last.after == pytest.approx(errors(dense, after, held_out)[1], rel=1e-4)
    shown = str(PruningReport.of(after, reports))
    assert f"from {(told.before + last.before) / 2:.4f} to {(told.after + last.after) / 2:.4f} in" in shown
    assert "seconds" not in str(PruningReport.of(after, reports).to_dict())


@pytest.mark.parametrize("pattern", [None, "2:4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_stay_and_only_matrices_and_vectors_change(pattern, dtype):
    target = {"sparsity": None, "pattern": pattern} if pattern else {}
    (before, _), (after, reports) = (
        pruned("qwen3 moe", change=lambda model: model.to(dtype), **target, refine=of) for of in ((), BLOCKS)
    )
    fitted = set()
    for name, block in find_blocks(after).items():
        matrices = find_matrices(name, block)
        fitted |= {f"{name}.{key}" for key in fitted_parameters(block, matrices)}
        for matrix in matrices.values():
            if pattern:
                assert ((matrix.weight() != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all()
    first, second = before.state_dict(), after.state_dict()
    for key, tensor in second.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, first[key]) != (key in fitted), key
        if key.startswith("model.layers.0.") and tensor.ndim > 1:  # later ones are pruned on other inputs
            assert torch.equal(tensor == 0, first[key] == 0), key
    assert any("norm" in key for key in fitted)
    assert not any("mlp.gate.weight" in key for key in fitted)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in after.parameters())
    assert all(report.block.after < report.block.before for report in reports)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_is_never_worse_than_it_was(monkeypatch, dtype):
    monkeypatch.setattr(refine, "MATRIX_RATE", 1e4)
    monkeypatch.setattr(refine, "VECTOR_RATE", 1e4)
    (before, _), (after, reports) = (pruned(change=lambda model: model.to(dtype), refine=of) for of in ((), BLOCKS))
    assert all(torch.equal(tensor, after.state_dict()[key]) for key, tensor in before.state_dict().items())
    assert all(report.block.before == report.block.after for report in reports)


def test_a_single_sequence_is_fitted_to_and_judged_by():
    _, reports = pruned(sequences=SEQUENCES[:1], refine=BLOCKS)
    assert all(report.block.after < report.block.before for report in reports)


def test_what_is_fitted_to_are_responses_of_the_dense_model():
    """Prompts, padding and tokens without weight count nothing; a sequence without a response counts whole."""
    model = random_model("llama")
    blocks = list(find_blocks(model).values())
    sequences = [
        TokenSequence(range(3, 9), None, 2),
        TokenSequence(range(3, 8), None, 5),
        TokenSequence(range(3, 7), [1.0, 1.0, 0.0, 2.0], 1),
        TokenSequence(range(3, 8)),
    ]
    with torch.no_grad():
        outputs = probe_outputs(model, blocks, torch.tensor([[3, 4]]))
        batches = capture_inputs(model, blocks, outputs, sequences, ActivationStore(), with_targets=True)
    rows = {
        held_out: [row.tolist() for batch in batches if batch.target.held_out == held_out for row in _rows(batch)]
        for held_out in (False, True)
    }
    assert rows == {False: [[0, 1, 0, 2, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]], True: [[1, 1, 1, 1, 1]]}


def _rows(batch):
    return batch.target.weights.view(batch.hidden.read(torch.device("cpu")).shape[:2])


def test_prompts_are_left_out(monkeypatch):
    """With the same sequences a block is fitted to other tokens, and closer to those."""
    monkeypatch.setattr(refine, "MOST_EPOCHS", 20)
    found = {}
    for skip in (0, 12):
        model = random_model("llama")
        config = PruningConfig(method="wanda", sparsity=0.7, refine=BLOCKS)
        prune_layerwise(model, SEQUENCES, config, prompts=[skip] * len(SEQUENCES))
        found[skip] = errors(random_model("llama"), model, SEQUENCES, skip=12)[-1]
    assert found[12] < found[0]


@pytest.mark.parametrize("name", slow_but([*CONFIGS, *MIXTURES], ["gpt2", "gpt-oss"]))
def test_every_architecture_is_fitted(name):
    _, reports = pruned(name, refine=BLOCKS)
    assert all(report.block.after < report.block.before for report in reports)


@pytest.mark.parametrize("name", slow_but(WORKING, ["linear and full attention"]))
def test_blocks_beyond_plain_decoders_are_fitted(name):
    model = build(WORKING[name])
    config = PruningConfig(method="wanda", sparsity=0.5, refine=BLOCKS)
    reports = prune_layerwise(model, random_sequences((60, 55, 58)), config)
    assert all(report.block.after <= report.block.before for report in reports)
    assert any(report.block.after < report.block.before for report in reports)


def test_frozen_parameters_stay_frozen():
    model = random_model("llama")
    model.requires_grad_(False)
    prune_layerwise(model, SEQUENCES[:4], PruningConfig(method="wanda", refine=BLOCKS))
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("true_sequential", [False, True])
def test_streamed_and_resident_give_the_same_checkpoint(tmp_path, true_sequential):
    """Norms, which pruning alone leaves as they are, come from the refined blocks in both."""
    dense = random_model("qwen3")
    dense.save_pretrained(tmp_path / "dense")
    SSGRPruner.from_pretrained("tiny-reasoner").tokenizer.save_pretrained(tmp_path / "dense")
    config = PruningConfig(method="wanda", sparsity=0.5, true_sequential=true_sequential, refine=("swaps", "blocks"))
    saved = []
    for streaming in (False, True):
        pruner = SSGRPruner.from_pretrained(str(tmp_path / "dense"), streaming=streaming)
        data = Dataset.from_dict({"input_ids": SEQUENCES})
        pruner.prune(data, config, journal_dir=tmp_path / f"journal-{streaming}", activation_gb=1e-5)
        pruner.save_pretrained(tmp_path / f"sparse-{streaming}")
        saved.append(weights_in(tmp_path / f"sparse-{streaming}"))
    first, second = saved
    assert first.keys() == second.keys() == weights_in(tmp_path / "dense").keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    for name in ("input_layernorm", "post_attention_layernorm"):
        key = f"model.layers.1.{name}.weight"
        assert not torch.equal(first[key], dense.state_dict()[key])


def test_the_same_settings_give_the_same_bits():
    first, second = (pruned(refine=BLOCKS)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", ["llama", "shared keys and values"])
def test_dense_states_are_those_of_the_dense_model(monkeypatch, name):
    """At every depth, whatever was done to the blocks before, and to what they hand on besides the hidden states."""
    make = functools.partial(random_model, name) if name == "llama" else functools.partial(build, WORKING[name])
    seen = []

    def look(index, block, matrices, batches, epochs=None):
        seen.append([batch.target.hidden.read(torch.device("cpu")) for batch in batches])
        return fit(index, block, matrices, batches, epochs)

    fit = refine.refine_block
    monkeypatch.setattr("optimum_ssgr.pruning.layerwise.refine_block", look)
    prune_layerwise(make(), SEQUENCES[:1], PruningConfig(method="wanda", sparsity=0.7, refine=BLOCKS))
    expected = states(make(), SEQUENCES[0])
    for depth, [found] in enumerate(seen):
        torch.testing.assert_close(found.flatten(0, -2).double(), expected[depth], rtol=1e-4, atol=1e-4)
