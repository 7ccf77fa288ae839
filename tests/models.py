"""Tiny models with random weights, one per architecture that must work."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from benchmarks.architectures import randomize


SMALL = {
    "vocab_size": 704,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "llama tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "gemma2, sliding": Gemma2Config(**SMALL, head_dim=8, sliding_window=4),
    "gemma3, sliding": Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=4),
    "mistral, sliding": MistralConfig(**SMALL, head_dim=8, sliding_window=4),
    "phi": PhiConfig(**SMALL),
    "gpt2": GPT2Config(vocab_size=704, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=64, eos_token_id=2),
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MIXTURES = {
    "mixtral": MixtralConfig(**SMALL, **EXPERTS),
    "qwen3 moe": Qwen3MoeConfig(**SMALL, **EXPERTS, num_experts=4, moe_intermediate_size=32, head_dim=8),
    "gpt-oss": GptOssConfig(**SMALL, **EXPERTS, head_dim=8, sliding_window=4),
}


def slow_but(names, quick):
    """Give names, or tuples of what a test takes, as parameters of one that is slow with all; `make quick` takes a few."""
    rows = {name: name if isinstance(name, tuple) else (name,) for name in names}
    return [pytest.param(*row, marks=() if name in quick else pytest.mark.slow) for name, row in rows.items()]


def random_model(name, seed=0):
    """Make a model whose weights are large enough for its outputs to depend on every one of them."""
    torch.manual_seed(seed)
    config = copy.deepcopy((CONFIGS | MIXTURES)[name])  # a model writes into its own
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model)
    model.tie_weights()
    return model
