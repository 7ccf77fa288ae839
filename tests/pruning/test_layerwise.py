import math

import pytest
import torch
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ConfigError, DataError, ModelError, NumericalError
from optimum_ssgr.pruning import capture, layerwise, traversal
from optimum_ssgr.pruning.activations import ActivationStore
from optimum_ssgr.pruning.block_store import open_block_store
from optimum_ssgr.pruning.blocks import find_blocks, find_matrices
from optimum_ssgr.pruning.capture import TokenSequence, capture_inputs, probe_outputs
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.plan import count_argument_bytes
from optimum_ssgr.pruning.report import PruningReport

from ..models import CONFIGS, MIXTURES, random_model, slow_but
from .naive import naive_sparsegpt, naive_wanda


def random_sequences(lengths=(17, 5, 30, 11, 30, 2, 23), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 64, (length,), generator=generator).tolist() for length in lengths]


def inputs_of(model, matrix, sequences):
    """Inputs of one linear layer, running the whole model on one unpadded sequence at a time."""
    seen = []
    hook = matrix.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, args[0].shape[-1])))
    for sequence in sequences:
        model(torch.tensor([sequence]), use_cache=False)
    hook.remove()
    return torch.cat(seen)


@torch.no_grad()
def naive_prune(model, sequences, prune, sequential):
    """Prune block after block; sequential sees every layer's inputs only once all layers fed before it are pruned."""
    for name, block in find_blocks(model).items():
        matrices = find_matrices(name, block)
        if not sequential:
            inputs = {key: inputs_of(model, matrix, sequences) for key, matrix in matrices.items()}
            for key, matrix in matrices.items():
                matrix.weight().copy_(prune(matrix.weight(), inputs[key]))
            continue
        waiting = dict(matrices)
        while waiting:
            inputs = {key: inputs_of(model, matrix, sequences) for key, matrix in waiting.items()}
            # The next to be pruned: the first layer in the order of the forward pass, and those fed with the same values.
            first = next(key for key in run_order(model, waiting))
            for key in [key for key in waiting if inputs[key].equal(inputs[first])]:
                matrix = waiting.pop(key)
                matrix.weight().copy_(prune(matrix.weight(), inputs[key]))


def run_order(model, matrices):
    order = []
    hooks = [matrix.module.register_forward_pre_hook(lambda *_, key=key: order.append(key)) for key, matrix in matrices.items()]
    model(torch.tensor([[3, 4, 5]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return order


def agreement(model, reference):
    ours, theirs = (
        torch.cat([(x.weight() == 0).flatten() for n, b in find_blocks(m).items() for x in find_matrices(n, b).values()])
        for m in (model, reference)
    )
    return (ours == theirs).float().mean().item()


@pytest.mark.parametrize("name", slow_but(CONFIGS, ["llama", "gpt2"]))
@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
@pytest.mark.parametrize("true_sequential", [False, True])
def test_every_architecture_equals_the_naive_loop(name, method, true_sequential):
    model, reference, sequences = random_model(name), random_model(name), random_sequences()
    reports = prune_layerwise(model, sequences, PruningConfig(method=method, sparsity=0.5, true_sequential=true_sequential))
    solver = naive_sparsegpt if method == "sparsegpt" else naive_wanda
    naive_prune(reference, sequences, lambda weights, inputs: solver(weights, inputs, sparsity=0.5)[0].float(), true_sequential)
    assert agreement(model, reference) >= 0.999
    ids = torch.tensor([sequences[0]])
    torch.testing.assert_close(model(ids).logits, reference(ids).logits, rtol=0.02, atol=0.02)
    assert {report.tokens for report in reports} == {sum(map(len, sequences))}  # padding was not counted
    assert sum(report.zeros for report in reports) == pytest.approx(0.5 * sum(r.weights for r in reports), rel=0.02)


def test_other_weights_are_left_alone():
    model, before = random_model("llama tied"), random_model("llama tied").state_dict()
    prune_layerwise(model, random_sequences(), PruningConfig(sparsity=0.5))
    linears = {f"{n}.{k}" for n, b in find_blocks(model).items() for k in find_matrices(n, b)}
    assert len(linears) == 14
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) != (key in linears), key
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_captured_inputs_are_those_of_the_dense_model():
    """Passing through must not change what a block is called with, window masks and rotary tables included."""
    model, sequences = random_model("gemma3, sliding"), random_sequences((9, 9))
    blocks = list(find_blocks(model).values())
    with torch.no_grad():
        outputs = probe_outputs(model, blocks, torch.tensor([[3, 4]]))
        [batch] = capture_inputs(model, blocks, outputs, [TokenSequence(ids) for ids in sequences], ActivationStore())
        calls = []
        for block in blocks:
            block.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
        expected = model(torch.tensor(sequences), use_cache=False).logits
        for (_, captured), called in zip(batch.arguments, calls, strict=True):
            assert captured.keys() == called.keys()
            for ours, theirs in zip(captured["position_embeddings"], called["position_embeddings"], strict=True):
                assert torch.equal(ours, theirs)
            assert torch.equal(captured["attention_mask"], called["attention_mask"])
        for index, block in enumerate(blocks):
            batch.hidden.write(batch.run(index, block))
        hidden = batch.hidden.read(torch.device("cpu"))
        torch.testing.assert_close(model.lm_head(model.model.norm(hidden)), expected)


@pytest.mark.parametrize("name", ["llama", "gemma2, sliding", "gemma3, sliding", "mistral, sliding", "gpt2"])
def test_many_lengths_hold_the_masks_and_tables_of_the_longest(name, monkeypatch):
    """Every length but the longest is a view; and what that takes is what the plan counts on the meta device."""
    monkeypatch.setattr(capture, "BATCH_TOKENS", 48)
    model = random_model(name)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager")

    def captured(lengths):
        blocks = list(find_blocks(model).values())
        sequences = [TokenSequence(ids) for ids in random_sequences(lengths)]
        with torch.no_grad():
            outputs = probe_outputs(model, blocks, torch.tensor([[3, 4]]))
            return capture_inputs(model, blocks, outputs, sequences, ActivationStore())

    def held(batches):
        tensors = [leaf for batch in batches for leaf in tree_leaves(batch.arguments) if isinstance(leaf, torch.Tensor)]
        return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())

    many = captured(range(3, 49))
    assert held(many) == held(captured([48]))
    for batch in many[::9]:
        [alone] = captured([batch.hidden.read(torch.device("cpu")).shape[1]])
        for ours, theirs in zip(tree_leaves(batch.arguments), tree_leaves(alone.arguments), strict=True):
            if isinstance(theirs, torch.Tensor):
                torch.testing.assert_close(ours[:1], theirs, rtol=0, atol=0)
    outputs = probe_outputs(skeleton, list(find_blocks(skeleton).values()), torch.zeros(1, 4, dtype=torch.long, device="meta"))
    ids = torch.zeros(1, 48, dtype=torch.long, device="meta")
    _, arguments = capture.capture_arguments(skeleton, list(find_blocks(skeleton).values()), outputs, ids)
    assert count_argument_bytes(arguments) == held(many)


def test_blocks_that_hand_on_more_than_hidden_states_are_refused():
    model = random_model("llama")
    memory = []
    first, second = model.model.layers
    first.register_forward_hook(lambda _, args, output: memory.append(output.clone()))
    second.register_forward_pre_hook(lambda _, args: (args[0] + memory.pop(0), *args[1:]))
    prune_layerwise(random_model("llama"), random_sequences(), PruningConfig(method="wanda"))
    memory.append(torch.ones(1, 4, 32))  # what one pass leaves to the next
    with pytest.raises(ModelError, match="hand more to each other than their hidden states"):
        prune_layerwise(model, random_sequences(), PruningConfig(method="wanda"))


@pytest.mark.parametrize("name", slow_but([*CONFIGS, *MIXTURES], ["llama", "mixtral"]))
@pytest.mark.parametrize("refine", [(), ("blocks",)], ids=["", "refined"])
@pytest.mark.parametrize("room", [0, 40_000])
def test_micro_batches_that_there_is_no_room_for_begin_anew_and_come_to_the_same_bits(name, refine, room, monkeypatch):
    monkeypatch.setattr(capture, "BATCH_TOKENS", 48)
    runs = []
    original = capture.MicroBatch.run
    monkeypatch.setattr(capture.MicroBatch, "run", lambda self, *of: runs.append(self) or original(self, *of))

    def prune(waiting_bytes):
        runs.clear()
        monkeypatch.setattr(layerwise, "count_waiting_bytes", lambda _: waiting_bytes)
        model, config = random_model(name), PruningConfig(sparsity=0.5, refine=refine, true_sequential=True)
        with torch.random.fork_rng():
            prune_layerwise(model, random_sequences(), config)
        return model.state_dict(), len(runs)

    (waited, once), (begun_anew, more) = prune(math.inf), prune(room)
    assert all(torch.equal(tensor, begun_anew[key]) for key, tensor in waited.items())
    assert more > once


def test_as_many_may_wait_as_half_the_weights_take():
    assert layerwise.count_waiting_bytes([2**30, 2**30]) == 2**30
    assert layerwise.count_waiting_bytes([2**20]) == layerwise.WAITING_BYTES


@pytest.mark.parametrize("true_sequential", [False, True])
def test_shared_inputs_share_statistics(monkeypatch, true_sequential):
    made = []
    original = traversal.InputStatistics

    def counting(*args):
        made.append(args)
        return original(*args)

    monkeypatch.setattr(traversal, "InputStatistics", counting)
    prune_layerwise(random_model("llama"), random_sequences(), PruningConfig(sparsity=0.5, true_sequential=true_sequential))
    assert len(made) == 2 * 4  # a block's q/k/v, o, gate/up and down


@pytest.mark.parametrize("pattern, kept, size", [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_patterns_hold_in_every_row(method, pattern, kept, size):
    model = random_model("gpt2")
    prune_layerwise(model, random_sequences(), PruningConfig(method=method, pattern=pattern))
    for name, block in find_blocks(model).items():
        for matrix in find_matrices(name, block).values():
            groups = (matrix.weight() != 0).unflatten(1, (-1, size)).sum(-1)
            assert (groups <= kept).all()
            assert groups.float().mean() > 0.99 * kept


def test_report_gives_denominators():
    model = random_model("llama tied")
    report = PruningReport.of(model, prune_layerwise(model, [], PruningConfig(method="magnitude", sparsity=0.5)))
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    assert report.prunable == linear
    assert report.zeros == linear // 2
    assert report.parameters == linear + 704 * 32 + 5 * 32
    assert report.to_dict()["sparsity_of_all"] == report.zeros / report.parameters


def test_infinite_inputs_are_refused():
    model = random_model("llama")
    model.model.embed_tokens.weight.data[5] = torch.inf
    with pytest.raises(NumericalError, match="are not finite"):
        prune_layerwise(model, [[4, 5, 6]], PruningConfig(method="wanda", sparsity=0.5))


@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
@pytest.mark.parametrize("true_sequential", [False, True])
def test_float16_that_overflows_is_told_at_its_block_with_a_remedy(tmp_path, name, true_sequential):
    """Inside the second block or in what comes out of it; the block before is kept, and bfloat16 goes through."""
    config, told = PruningConfig(true_sequential=true_sequential), r"not finite in torch.float16; load the model in bfloat16 or"
    where = r"inputs of model\.layers\.1\.mlp\.down_proj" if name == "up_proj" else "output of block 1"
    for dtype in (torch.float16, torch.bfloat16):
        model = random_model("llama").to(dtype)
        getattr(model.model.layers[1].mlp, name).weight.data *= 4e4
        with open_block_store(tmp_path / str(dtype)) as journal:
            if dtype == torch.float16:
                with pytest.raises(NumericalError, match=f"the {where}.* {told}"):
                    prune_layerwise(model, random_sequences(), config, journal=journal)
                assert journal.read(0)
                assert journal.read(1) is None
            else:
                reports = prune_layerwise(model, random_sequences(), config, journal=journal)
                assert {report.method for report in reports} == {"sparsegpt"}
                assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_pattern_that_does_not_divide_is_refused_before_any_work():
    model, before = random_model("llama"), random_model("llama").state_dict()
    with pytest.raises(ConfigError, match=r"2:5 does not divide the 32 inputs of model\.layers\.0\.self_attn\.q_proj"):
        prune_layerwise(model, random_sequences(), PruningConfig(pattern="2:5"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("sequences", [[], [[]]])
def test_nothing_to_calibrate_on_is_refused(sequences):
    with pytest.raises(DataError, match="the calibration set is empty"):
        prune_layerwise(random_model("llama"), sequences, PruningConfig(method="wanda"))


def test_same_seed_gives_the_same_bits():
    first, second = random_model("qwen3"), random_model("qwen3")
    for model in (first, second):
        prune_layerwise(model, random_sequences(), PruningConfig(sparsity=0.6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_tokens_without_weight_are_as_if_they_were_not_counted():
    """The prompt masked by zeros: statistics from the last tokens only, which still see the first ones."""
    model, reference, sequences = random_model("llama"), random_model("llama"), random_sequences()
    weights = [[0.0] * (len(ids) // 2) + [1.0] * (len(ids) - len(ids) // 2) for ids in sequences]
    config = PruningConfig(method="wanda", sparsity=0.5, true_sequential=False)
    reports = prune_layerwise(model, sequences, config, token_weights=weights)
    assert {report.tokens for report in reports} == {int(sum(map(sum, weights)))}

    seen = []
    attention = reference.model.layers[0].self_attn.q_proj
    hook = attention.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.no_grad():
        for ids in sequences:
            reference(torch.tensor([ids]))
    hook.remove()
    counted = torch.cat([inputs[len(inputs) // 2 :] for inputs in seen])
    theirs, _ = naive_wanda(attention.weight.detach(), counted, sparsity=0.5)
    assert ((model.model.layers[0].self_attn.q_proj.weight == 0) == (theirs == 0)).float().mean() > 0.999


def test_weights_scale_a_tokens_share():
    """A token of weight 3 counts as if its sequence had been there three times."""
    model, reference = random_model("llama"), random_model("llama")
    [first, second] = random_sequences((40, 40))
    config = PruningConfig(sparsity=0.5)
    prune_layerwise(model, [first, second], config, token_weights=[[3.0] * 40, [1.0] * 40])
    prune_layerwise(reference, [first, first, first, second], config)
    assert agreement(model, reference) >= 0.999


@pytest.mark.parametrize(
    "weights, told",
    [([[1.0]], "as many token weights as tokens"), ([[-1.0] * 5], "0 or more"), ([[0.0] * 5], "calibration set is empty")],
)
def test_token_weights_that_make_no_sense_are_refused(weights, told):
    with pytest.raises(DataError, match=told):
        prune_layerwise(random_model("llama"), random_sequences((5,)), PruningConfig(), token_weights=weights)
