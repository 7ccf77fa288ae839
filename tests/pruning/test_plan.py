"""The plan: sizes against what counting by hand gives, for models of one and of several kinds of blocks."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config

from benchmarks.architectures import build_model
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.pruning import plan
from optimum_ssgr.pruning.blocks import find_blocks
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.plan import make_plan
from optimum_ssgr.pruning.statistics import InputStatistics

from ..models import CONFIGS, MIXTURES, SMALL
from .test_layerwise import random_sequences


LENGTHS = 3 * [60, 40, 55]
TOKENS = sum(LENGTHS)
# As DeepSeek-V3 and GLM-4.5: the first block is dense, the others hold many experts.
DEEPSEEK = DeepseekV3Config(
    **SMALL | {"vocab_size": 64, "num_hidden_layers": 3, "num_key_value_heads": 4},
    moe_intermediate_size=16,
    n_routed_experts=64,
    num_experts_per_tok=4,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
)


def skeleton(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).eval()


def planned(config, streaming=False, activation_bytes=10**9, **settings):
    settings = {"sparsity": 0.5, "true_sequential": False} | settings
    where = {"dtype": torch.float32, "device": torch.device("cpu")}
    return make_plan(
        skeleton(config),
        LENGTHS,
        PruningConfig(**settings),
        streaming=streaming,
        activation_bytes=activation_bytes,
        **where,
    )


@pytest.mark.parametrize("true_sequential", [False, True])
def test_a_dense_model_takes_its_weights_its_statistics_and_its_activations(true_sequential):
    found = planned(CONFIGS["llama"], streaming=True, true_sequential=true_sequential)
    block = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32)
    hidden, inside = 4 * TOKENS * 32, TOKENS * (3 * 64 * 4 + 64 * 4)
    # of q/k/v, o, gate/up and down; one after the other where every block is run once
    squares = 64**2 if true_sequential else 3 * 32**2 + 64**2
    solver = 4 * (squares + 64**2 + 2 * 2 * 64 * 32)
    waiting = 2 * hidden + 4 * TOKENS * 64 if true_sequential else 0
    arguments = found.memory - (block + hidden + waiting + inside + solver)
    assert 4 * 60 * 8 <= arguments <= 60 * (60 + 2 * 8 * 4 + 16)  # rotary tables, and perhaps a mask and positions
    whole = 4 * sum(parameter.numel() for parameter in skeleton(CONFIGS["llama"]).parameters())
    assert found.disk == whole  # the pruned blocks are linked
    assert planned(CONFIGS["llama"], streaming=True, true_sequential=true_sequential, activation_bytes=0).disk == whole + hidden
    resident = planned(CONFIGS["llama"], true_sequential=true_sequential)
    reading = whole - block  # the checkpoint, to compare it: what is outside of the blocks, and one of the two
    assert (resident.memory, resident.disk) == (whole + max(reading, found.memory - block), whole + 2 * block)


def test_the_largest_block_decides_on_memory_and_each_on_disk_and_time(monkeypatch):
    """What differs between methods is the solver's: the statistics of 64 experts, though the first block has none."""
    timed = []
    monkeypatch.setattr(plan, "time_block", lambda name, *_: timed.append(name) or (1.0 if name.endswith("0") else 10.0))
    monkeypatch.setattr(plan, "time_files", lambda *_: 0.5)
    second_order, wanda = (planned(DEEPSEEK, streaming=True, method=method) for method in ("sparsegpt", "wanda"))
    # q_a/kv_a see the hidden states, q_b and kv_b their bottlenecks, o the heads; the shared expert, and all others
    inputs = [32, 16, 16, 32, 32, 16, *64 * [32, 16]]
    solver = 4 * (sum(width**2 for width in inputs) + 32**2 + 2 * (16 + 24) * 32)
    assert second_order.memory - wanda.memory == solver - 3 * 4 * 64 * 16
    assert second_order.seconds == 1.5 + 2 * 10.5
    assert timed == 2 * ["model.layers.0", "model.layers.1"]
    sizes = [4 * sum(p.numel() for p in block.parameters()) for block in find_blocks(skeleton(DEEPSEEK)).values()]
    assert sizes[1] > 3 * sizes[0]
    whole = 4 * sum(parameter.numel() for parameter in skeleton(DEEPSEEK).parameters())
    assert planned(DEEPSEEK).disk == whole + sum(sizes)
    assert second_order.disk == whole + sizes[1] + sizes[2]  # written again, as the parts that other programs know


@pytest.mark.parametrize("vocabulary", [64, 7040])
def test_what_fused_experts_are_put_together_from_is_counted(monkeypatch, vocabulary):
    """As they are written, when the block is held twice; as they are read, beside the embeddings to check what was written."""
    monkeypatch.setattr(plan, "time_block", lambda *_: 0.0)
    config = DeepseekV3Config(**DEEPSEEK.to_diff_dict() | {"vocab_size": vocabulary})
    block = 4 * sum(parameter.numel() for parameter in find_blocks(skeleton(config))["model.layers.1"].parameters())
    fused = 4 * 64 * 2 * 32 * 16  # gate and up are one parameter, down is half as large
    outside = 4 * (2 * vocabulary * 32 + 32)
    found = planned(config, streaming=True, method="magnitude")
    assert found.memory == block + fused + (block if vocabulary == 64 else outside)
    whole = 4 * sum(parameter.numel() for parameter in skeleton(config).parameters())
    assert planned(config, method="magnitude").memory == whole + outside + block + fused


@pytest.mark.parametrize("true_sequential", [False, True])
@pytest.mark.parametrize("name", [*MIXTURES, "deepseek"])
def test_every_mixture_is_timed_with_its_experts_seen(name, true_sequential, monkeypatch):
    """As in the real run, whose statistics the plan counts: the second moments held at a time."""
    made = []
    create = InputStatistics.__init__
    monkeypatch.setattr(InputStatistics, "__init__", lambda self, *of: create(self, *of) or made.append(self))
    config = (MIXTURES | {"deepseek": DEEPSEEK})[name]
    found = planned(config, true_sequential=true_sequential)
    assert found.seconds > 0
    assert sum(statistics.tokens for statistics in made) > 0
    of_plan = {len(statistics.hessian) for statistics in made if statistics.tokens}
    made.clear()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    prune_layerwise(model, random_sequences(LENGTHS), PruningConfig(sparsity=0.5, true_sequential=true_sequential))
    assert {len(statistics.hessian) for statistics in made} == of_plan


def test_blocks_that_keep_a_state_are_timed():
    """Which the tokens before have left on the meta device."""
    config = build_model("RecurrentGemma").config
    assert planned(config).seconds > 0


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_what_refining_takes_is_counted(method, monkeypatch):
    """Swaps need second moments; fitting needs Adam's numbers, and the dense model's hidden states all along."""
    monkeypatch.setattr(plan, "time_block", lambda *_: 1.0)  # no readings of the clock are compared, which may be equal
    monkeypatch.setattr(plan, "time_files", lambda *_: 0.0)
    time_refinement = plan.time_refinement
    monkeypatch.setattr(plan, "time_refinement", lambda *of: time_refinement(*of) + 1.0)
    plain, swaps, blocks = (
        planned(CONFIGS["llama"], streaming=True, method=method, refine=refine) for refine in ((), ("swaps",), ("blocks",))
    )
    squares = 4 * (3 * 32**2 + 64**2)
    assert swaps.memory > squares
    weights = sum(parameter.numel() for parameter in find_blocks(skeleton(CONFIGS["llama"]))["model.layers.0"].parameters())
    hidden = 4 * TOKENS * 32
    assert blocks.memory > 4 * weights + 17 * weights + 2 * hidden
    assert blocks.memory > plain.memory
    assert blocks.seconds > plain.seconds > 0
    spilled = planned(CONFIGS["llama"], streaming=True, method=method, refine=("blocks",), activation_bytes=0)
    assert spilled.disk - blocks.disk == blocks.memory - spilled.memory == 2 * hidden
