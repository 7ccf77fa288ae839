"""Mixtures of experts: fused 3-D parameters, every expert on the tokens that are routed to it."""

import contextlib

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4TextConfig, Qwen3MoeConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import DataError, ModelError
from optimum_ssgr.pruning import solve
from optimum_ssgr.pruning.blocks import find_blocks, find_matrices
from optimum_ssgr.pruning.experts import observe_experts, use_observable_experts
from optimum_ssgr.pruning.layerwise import prune_layerwise

from ..models import MIXTURES, SMALL, random_model, randomize
from .naive import naive_sparsegpt, naive_wanda
from .test_layerwise import random_sequences


SEQUENCES = random_sequences((60, 40, 55, 30, 48))


def expert_inputs(model, number, sequences):
    """What transformers' own loop over experts feeds each expert of a block, from one unpadded sequence at a time."""
    block = list(find_blocks(model).values())[number]
    experts = block.mlp.experts
    into, out_of = {e: [] for e in range(4)}, {e: [] for e in range(4)}

    def note(module, args):
        hidden, routes = args[0], args[1]
        for e in range(4):
            inputs = hidden[(routes == e).any(dim=1)]
            weight = module.gate_up_proj[e].T if module.is_transposed else module.gate_up_proj[e]
            hidden_layer = inputs @ weight.T + (module.gate_up_proj_bias[e] if module.has_bias else 0)
            into[e].append(inputs)
            out_of[e].append(module._apply_gate(hidden_layer))

    hook = experts.register_forward_pre_hook(note)
    for sequence in sequences:
        model(torch.tensor([sequence]), use_cache=False)
    hook.remove()
    return {e: torch.cat(into[e]) for e in into}, {e: torch.cat(out_of[e]) for e in out_of}


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_run_as_transformers_runs_them(name):
    model, ids = random_model(name), torch.tensor(SEQUENCES[0])[None]
    model.config._experts_implementation = "eager"
    with torch.no_grad():
        expected = model(ids).logits
        with use_observable_experts(model):
            ours = model(ids).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert model.config._experts_implementation == "eager"


@pytest.mark.parametrize("sequences", [SEQUENCES, []], ids=["done", "failed"])
def test_transformers_registry_is_as_before_when_pruning_ends(sequences):
    before = dict(ALL_EXPERTS_FUNCTIONS)
    assert not [function for function in before.values() if function.__module__.startswith("optimum_ssgr")]
    with contextlib.suppress(DataError):
        prune_layerwise(random_model("qwen3 moe"), sequences, PruningConfig(method="wanda"))
    assert dict(ALL_EXPERTS_FUNCTIONS) == before


def test_experts_stay_observable_while_any_context_is_open():
    """Nested on one model, as the pruning loop does it, and ended in another order, as threads may."""
    first, second, ids = random_model("qwen3 moe"), random_model("qwen3 moe"), torch.tensor(SEQUENCES[0])[None]
    before, implementation = dict(ALL_EXPERTS_FUNCTIONS), first.config._experts_implementation
    contexts = [use_observable_experts(model) for model in (first, second, second)]
    seen = []
    with torch.no_grad(), observe_experts(second.model.layers[1].mlp.experts, lambda key, *_: seen.append(key)):
        for context in contexts:
            context.__enter__()
        for context in (contexts[0], contexts[2]):
            context.__exit__(None, None, None)
            second(ids)
        contexts[1].__exit__(None, None, None)
        second(ids)
    assert seen == 2 * ["gate_up_proj", "down_proj"]
    assert (dict(ALL_EXPERTS_FUNCTIONS), first.config._experts_implementation) == (before, implementation)
    assert second.config._experts_implementation == implementation


def build_batched():
    """Llama 4 runs every expert on all tokens, with zeros for those that are not routed to it."""
    torch.manual_seed(0)
    config = Llama4TextConfig(**SMALL, num_local_experts=4, num_experts_per_tok=1, head_dim=8, intermediate_size_mlp=64)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model)
    return model


def test_experts_that_run_on_all_tokens_are_pruned_on_those_routed_to_them():
    model, dense, seen = build_batched(), build_batched(), {e: [] for e in range(4)}

    def note(module, args):
        for e, rows in enumerate(args[0].view(4, -1, 32)):
            seen[e].append(rows[rows.abs().sum(dim=1) > 0])

    hook = dense.model.layers[0].feed_forward.experts.register_forward_pre_hook(note)
    with torch.no_grad():
        for sequence in SEQUENCES:
            dense(torch.tensor([sequence]), use_cache=False)
    hook.remove()
    inputs = {e: torch.cat(rows) for e, rows in seen.items()}
    assert sum(map(len, inputs.values())) == sum(map(len, SEQUENCES))

    reports = prune_layerwise(model, SEQUENCES, PruningConfig(method="wanda", sparsity=0.5, true_sequential=False))
    assert all(report.zeros / report.weights == pytest.approx(0.5, abs=0.02) for report in reports)
    found, given = (of.model.layers[0].feed_forward.experts for of in (model, dense))
    assert "forward" not in vars(found)
    compared = 0
    for e, rows in inputs.items():
        [into] = [r for r in reports if r.name == f"model.layers.0.feed_forward.experts.gate_up_proj.{e}"]
        assert into.tokens == len(rows)
        if into.method != "magnitude":
            compared += 1
            gate, up = (rows @ given.gate_up_proj[e]).chunk(2, dim=-1)
            for key, of in (("gate_up_proj", rows), ("down_proj", up * torch.nn.functional.silu(gate))):
                theirs = naive_wanda(getattr(given, key)[e].T, of, sparsity=0.5)[0]
                assert ((getattr(found, key)[e].T == 0) == (theirs == 0)).all(dim=1).float().mean() >= 0.99
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("method", ["sparsegpt", "wanda"])
def test_first_block_equals_the_naive_solution_expert_by_expert(name, method):
    model, dense = random_model(name), random_model(name)
    reports = prune_layerwise(model, SEQUENCES, PruningConfig(method=method, sparsity=0.5, true_sequential=False))
    solver = naive_sparsegpt if method == "sparsegpt" else naive_wanda
    with torch.no_grad():
        into, out_of = expert_inputs(dense, 0, SEQUENCES)
    compared = 0
    for key, inputs in (("gate_up_proj", into), ("down_proj", out_of)):
        for e in range(4):
            [report] = [r for r in reports if r.name == f"model.layers.0.mlp.experts.{key}.{e}"]
            assert report.tokens == len(inputs[e])
            if report.method == "magnitude":  # a router's bias keeps some experts idle
                assert report.tokens < solve.MIN_EXPERT_TOKENS
                continue
            compared += 1
            found, given = (getattr(m.model.layers[0].mlp.experts, key)[e] for m in (model, dense))
            if model.model.layers[0].mlp.experts.is_transposed:
                found, given = found.T, given.T
            theirs = solver(given, inputs[e], sparsity=0.5)[0]
            agree = ((found == 0) == (theirs == 0)).all(dim=1)
            assert agree.float().mean() >= 0.99
            torch.testing.assert_close(found[agree].double(), theirs[agree], rtol=1e-3, atol=1e-3)
    assert compared >= 4


@pytest.mark.parametrize("name", MIXTURES)
def test_routers_are_left_alone_and_every_expert_is_pruned(name):
    model, before = random_model(name), random_model(name)
    reports = prune_layerwise(model, SEQUENCES, PruningConfig(sparsity=0.5))
    assert len(reports) == 2 * (4 + 8)  # attention, and four experts with two matrices each
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before.state_dict()[key])}
    assert not [key for key in changed if "router" in key or ".gate." in key or "norm" in key or key.endswith("bias")]
    for experts in (layer.mlp.experts for layer in model.model.layers):
        for fused in (experts.gate_up_proj, experts.down_proj):
            for expert in fused:
                assert (expert == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_an_expert_that_hardly_saw_a_token_is_pruned_by_magnitude_and_reported(monkeypatch):
    model, dense = random_model("qwen3 moe"), random_model("qwen3 moe")
    told = []
    monkeypatch.setattr("optimum_ssgr.pruning.layerwise.logger.warning", told.append)
    for changed in (model, dense):
        with torch.no_grad():
            changed.model.layers[0].mlp.gate.weight[2] = 0
            changed.model.layers[0].mlp.gate.weight[[0, 1, 3]] *= 10
    sequences = random_sequences((20, 15, 18))
    reports = prune_layerwise(model, sequences, PruningConfig(method="wanda", sparsity=0.5))
    poor = [report for report in reports if report.method == "magnitude"]
    assert poor
    assert {report.tokens < solve.MIN_EXPERT_TOKENS for report in poor} == {True}
    assert {report.method for report in reports if report.tokens >= solve.MIN_EXPERT_TOKENS} == {"wanda"}
    assert "were pruned by magnitude" in told[0]
    for report in poor:
        assert report.zeros == report.weights // 2  # not wiped
    block = find_blocks(dense)["model.layers.0"]
    first = next(report for report in poor if report.name.startswith("model.layers.0.mlp"))
    weight = find_matrices("", block)[first.name.removeprefix("model.layers.0.")].weight()
    pruned = find_matrices("", find_blocks(model)["model.layers.0"])[first.name.removeprefix("model.layers.0.")].weight()
    kept = pruned != 0
    assert weight[kept].abs().min() >= weight[~kept].abs().max()


@pytest.mark.parametrize("true_sequential", [False, True])
@pytest.mark.parametrize("method", ["sparsegpt", "alps", "wanda"])
def test_more_experts_than_tokens_to_go_round(monkeypatch, method, true_sequential):
    """64 experts and 40 tokens, two choices each: many experts see a token or none, and each of them is told of."""
    told = []
    monkeypatch.setattr("optimum_ssgr.pruning.layerwise.logger.warning", told.append)
    torch.manual_seed(0)
    sizes = {"num_local_experts": 64, "num_experts": 64, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
    model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**SMALL, **sizes), attn_implementation="eager").eval()
    model.model.layers[0].mlp.gate.weight.data.normal_()
    allocation = "owl" if method == "wanda" else "uniform"
    config = PruningConfig(method=method, allocation=allocation, true_sequential=true_sequential)
    reports = prune_layerwise(model, random_sequences((25, 15)), config)
    experts = [report for report in reports if ".experts." in report.name]
    assert len(experts) == 2 * 2 * 64
    for key in ("gate_up_proj", "down_proj"):
        seen = [report.tokens for report in experts if report.name.startswith(f"model.layers.0.mlp.experts.{key}.")]
        assert sum(seen) == 2 * 40
        assert 0 in seen
    poor = [report for report in experts if report.tokens < solve.MIN_EXPERT_TOKENS]
    assert {(report.method, report.damping, report.resisted) for report in poor} == {("magnitude", None, False)}
    assert {report.method for report in reports if report not in poor} == {method}
    assert [message for message in told if message.startswith(f"{len(poor)} of {len(reports)} matrices belong to experts")]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(report.zeros / report.weights == pytest.approx(0.5, abs=0.17) for report in reports)  # owl's spread


def test_fused_weights_of_an_unknown_kind_are_refused_by_name():
    model = random_model("llama")
    model.model.layers[1].mlp.odd = torch.nn.Module()
    model.model.layers[1].mlp.odd.experts = torch.nn.Parameter(torch.zeros(4, 8, 8))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.odd\.experts fuses the experts"):
        prune_layerwise(model, SEQUENCES, PruningConfig())
