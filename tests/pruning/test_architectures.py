"""Architectures beyond plain decoders: all of what is reported is pruned, and nothing else is touched."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BambaConfig,
    DeepseekV3Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma4TextConfig,
    HunYuanMoEV1Config,
    JambaConfig,
    Mamba2Config,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPast

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ModelError
from optimum_ssgr.pruning.blocks import find_matrices
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.prunable import check_prunable

from ..models import CONFIGS, SMALL, random_model, randomize, slow_but
from .naive import naive_magnitude
from .test_layerwise import random_sequences


EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
FOUR_BLOCKS = {**SMALL, "num_hidden_layers": 4, "head_dim": 8, "sliding_window": 4, "num_kv_shared_layers": 2}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28}
WORKING = {
    "vision tower": Gemma3Config(
        text_config=CONFIGS["gemma3, sliding"].to_dict(),
        vision_config={**VISION, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    ),
    "linear and full attention": Qwen3NextConfig(
        **SMALL,
        **EXPERTS,
        **LINEAR,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=32,
        layer_types=["linear_attention", "full_attention"],
    ),
    "shared keys and values": Gemma4TextConfig(
        **FOUR_BLOCKS, layer_types=ALTERNATING, hidden_size_per_layer_input=8, vocab_size_per_layer_input=704
    ),
    "layer inside the router, dense layers beside the experts": Gemma4TextConfig(
        **SMALL,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=32,
        head_dim=8,
        layer_types=["full_attention"] * 2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=704,
    ),
    "layer inside the gate": HunYuanMoEV1Config(**SMALL, num_experts=4, moe_topk=[2, 2], head_dim=8),
    "router of its own kind": PhimoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "shared expert": Qwen2MoeConfig(**SMALL, **EXPERTS, num_experts=4, shared_expert_intermediate_size=32),
    "latent attention, first block dense": DeepseekV3Config(
        **{**SMALL, "num_key_value_heads": 4},
        **EXPERTS,
        **LATENT,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "state space and attention, blocks that return pairs": BambaConfig(
        **SMALL, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=16, attn_layer_indices=[1]
    ),
    "state space": Mamba2Config(vocab_size=704, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=1),
}

# A config, and what is pruned by magnitude.
PARTLY_UNSEEN = {
    "weight used apart": (
        JambaConfig(
            **SMALL,
            **{"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
            **{"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        ),
        "mamba.dt_proj",
    ),
    "layer run twice": (
        Gemma3nTextConfig(
            **FOUR_BLOCKS | {"intermediate_size": [64] * 4},
            layer_types=ALTERNATING,
            vocab_size_per_layer_input=704,
            hidden_size_per_layer_input=8,
            laurel_rank=4,
            activation_sparsity_pattern=[0.0] * 4,
        ),
        "altup.modality_router",
    ),
}
GRIFFIN = RecurrentGemmaConfig(
    **SMALL, head_dim=8, block_types=["recurrent", "attention"], lru_width=32, attention_window_size=8
)


def build(config):
    torch.manual_seed(0)
    factory = AutoModelForImageTextToText if isinstance(config, Gemma3Config) else AutoModelForCausalLM
    return factory.from_config(config).eval()


@pytest.mark.parametrize("true_sequential", [True, False])
@pytest.mark.parametrize("name", slow_but(WORKING, ["shared expert", "shared keys and values"]))
def test_what_is_reported_is_pruned_and_nothing_else(name, true_sequential):
    model = build(WORKING[name])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    config = PruningConfig(method="sparsegpt", sparsity=0.5, true_sequential=true_sequential)
    reports = prune_layerwise(model, random_sequences((60, 55, 58)), config)
    assert all(report.zeros / report.weights == pytest.approx(0.5, abs=0.02) for report in reports)
    fused = (".experts.gate_up_proj", ".experts.down_proj")
    pruned = {
        next((key for key in before if key.endswith(fused) and report.name.startswith(f"{key}.")), report.name)
        for report in reports
    }
    assert pruned <= before.keys()
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == pruned
    assert not any(part in key for key in changed for part in ("vision", "embed", "lm_head", "router", ".gate."))


@pytest.mark.parametrize("true_sequential", [True, False])
@pytest.mark.parametrize("name", slow_but(PARTLY_UNSEEN, ["weight used apart"]))
def test_small_layers_whose_inputs_cannot_be_seen_are_pruned_by_magnitude_and_named(monkeypatch, name, true_sequential):
    told = []
    monkeypatch.setattr("optimum_ssgr.pruning.layerwise.logger.warning", told.append)
    config, layer = PARTLY_UNSEEN[name]
    model = build(config)
    randomize(model)  # some are made with zeros
    dense = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    reports = prune_layerwise(model, random_sequences((60, 55, 58)), PruningConfig(true_sequential=true_sequential))
    fallen = [report for report in reports if report.method == "magnitude"]
    assert fallen and all(layer in report.name and report.tokens == 0 for report in fallen)
    for report in fallen:
        expected, _ = naive_magnitude(dense[report.name], sparsity=0.5)
        assert torch.equal(model.state_dict()[report.name].double(), expected)
    assert all(abs(report.zeros - report.weights / 2) <= max(1, 0.02 * report.weights) for report in reports)
    [said] = told
    assert said.startswith(f"{len(fallen)} of {len(reports)} matrices were pruned by magnitude")
    assert all(report.name in said for report in fallen)


class AsFunctions(nn.Module):
    """A layer of a block whose weights are used without calling it."""

    def __init__(self, mlp):
        super().__init__()
        self.up_proj, self.down_proj = mlp.up_proj, mlp.down_proj

    def forward(self, hidden):
        return self.down_proj(nn.functional.linear(hidden, self.up_proj.weight))


def test_blocks_of_which_much_cannot_be_seen_are_refused():
    model = random_model("llama")
    for layer in model.model.layers:
        layer.mlp = AsFunctions(layer.mlp)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight is not run as a layer of its own, so its inputs"):
        prune_layerwise(model, random_sequences(), PruningConfig())


def test_block_diagonal_gates_are_no_experts():
    """Griffin's; they stay dense as other parameters that are no linear layers do."""
    model = build(GRIFFIN)
    dense = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    prune_layerwise(model, random_sequences((60, 55)), PruningConfig())
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, dense[key])}
    assert changed and not any("rg_lru" in key for key in changed)
    layer = nn.Module()
    layer.experts = nn.Module()
    layer.experts.up = nn.Parameter(torch.zeros(4, 8, 8))
    with pytest.raises(ModelError, match=r"experts\.up fuses the experts"):
        find_matrices("block", layer)


def test_layers_called_like_routers_are_pruned_where_there_are_no_experts():
    layers = {
        "gate": nn.Linear(4, 4),
        "gate_proj": nn.Linear(4, 4),
        "router": nn.ModuleDict({"proj": nn.Linear(4, 4)}),
    }
    assert find_matrices("", nn.ModuleDict(layers)).keys() == {"gate.weight", "gate_proj.weight", "router.proj.weight"}
    layers["experts"] = nn.ModuleList([nn.Linear(4, 4)])
    assert find_matrices("", nn.ModuleDict(layers)).keys() == {"gate_proj.weight", "experts.0.weight"}


@pytest.mark.parametrize("adapter", [{"base_layer": 32, "lora_A": 2}, {"plain": 32, "lora_embedding_B": 2}])
def test_adapters_are_refused_before_any_work(adapter):
    """As peft makes them: the layer itself is a plain one inside of another module."""
    model = random_model("llama")
    model.model.layers[1].mlp.up_proj = nn.ModuleDict({name: nn.Linear(32, size) for name, size in adapter.items()})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj has an adapter .*; merge adapters"):
        check_prunable(model, PruningConfig())


def test_blocks_that_share_weights_are_refused():
    model = random_model("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ModelError, match=r"is also a layer of model\.layers\.0"):
        prune_layerwise(model, random_sequences(), PruningConfig())


class Looped(nn.Module):
    """A decoder that runs its blocks several times over, as universal transformers do."""

    def __init__(self, decoder, order):
        super().__init__()
        self.config, self.embed_tokens, self.layers = decoder.config, decoder.embed_tokens, decoder.layers
        self.norm, self.rotary_emb, self.order = decoder.norm, decoder.rotary_emb, order

    def forward(self, input_ids=None, **_):
        hidden, positions = self.embed_tokens(input_ids), torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        rotary = self.rotary_emb(hidden, position_ids=positions)
        for number in self.order:
            hidden = self.layers[number](hidden, position_embeddings=rotary, attention_mask=None)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


@pytest.mark.parametrize("order", [(0, 1, 0, 1), (0, 0, 1), (1, 0), (0,)])
def test_looped_blocks_are_refused_unless_pruned_by_magnitude(order):
    """Run once each they are pruned, so that it is the loop that is refused; by magnitude each weight is looked at once."""
    once, looped, dense = random_model("llama"), random_model("llama"), random_model("llama")
    once.model, looped.model = Looped(once.model, (0, 1)), Looped(looped.model, order)
    assert len(prune_layerwise(once, random_sequences(), PruningConfig(method="wanda"))) == 14
    with pytest.raises(ModelError, match=rf"runs its 2 blocks {len(order)} times in a forward pass, not once each.*magnitude"):
        prune_layerwise(looped, random_sequences(), PruningConfig())
    assert all(torch.equal(tensor, dense.state_dict()[key]) for key, tensor in looped.state_dict().items())
    prune_layerwise(looped, [], PruningConfig(method="magnitude"))
    expected, _ = naive_magnitude(dense.model.layers[1].mlp.up_proj.weight.detach(), sparsity=0.5)
    assert torch.equal(looped.model.layers[1].mlp.up_proj.weight.double(), expected)


class ListedExperts(nn.Module):
    """Experts as a list of modules, each called with the tokens routed to it, as code that comes with models has them."""

    def __init__(self, count=4):
        super().__init__()
        self.gate = nn.Linear(32, count, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32)) for _ in range(count))

    def forward(self, hidden):
        chosen, output = self.gate(hidden).argmax(dim=-1), torch.zeros_like(hidden)
        for number, expert in enumerate(self.experts):
            output[chosen == number] = expert(hidden[chosen == number])
        return output


@pytest.mark.parametrize("count", [2, 4])  # 2: as many as there are blocks
def test_experts_in_a_list_are_refused_for_what_they_are_and_pruned_by_magnitude(count):
    torch.manual_seed(0)
    model = random_model("llama")
    for layer in model.model.layers:
        layer.mlp = ListedExperts(count)
    with pytest.raises(
        ModelError, match=rf"model.layers.0.mlp.experts is a list of {count} experts, .* or prune it by magnitude"
    ):
        check_prunable(model, PruningConfig(method="wanda"))
    gate = model.model.layers[0].mlp.gate.weight.clone()
    reports = prune_layerwise(model, [], PruningConfig(method="magnitude"))
    assert sum("experts" in report.name for report in reports) == 2 * count * 2
    assert all(report.zeros / report.weights == pytest.approx(0.5, abs=0.01) for report in reports)
    assert torch.equal(model.model.layers[0].mlp.gate.weight, gate)
