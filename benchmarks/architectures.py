"""The architectures of `models.py`: a tiny model of each, as the settings of its config in transformers.

A config that knows a setting under another name, or not at all, keeps it as an attribute that nothing reads, so that the same
settings serve for all. Widths are multiples of 4, for 2:4 to divide them.
"""

from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel


class Architecture(NamedTuple):
    """What to build a tiny model from.

    Args:
        model_type: What transformers calls it.
        settings: Settings of its config, beside `SIZES`; of its text config where it has one.
        outer: Settings of the config around the text config, for what also takes images; None for what is text alone.
    """

    model_type: str
    settings: dict[str, Any]
    outer: dict[str, Any] | None = None


SIZES = {
    "vocab_size": 704,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 704}
SHARED = {
    **PER_LAYER,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
# Beyond 64 positions other factors hold; the second prompt of `models.py` is longer.
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 4,
    "num_heads": 4,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": 32,
}
IMAGES = {"image_token_index": 5, "image_token_id": 5, "boi_token_index": 6, "eoi_token_index": 7}
IMAGES |= {"boi_token_id": 6, "eoi_token_id": 7, "video_token_id": 8, "vision_start_token_id": 9, "vision_end_token_id": 10}
ROTARY_SECTIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}

ARCHITECTURES = {
    "Qwen2": Architecture("qwen2", {}),
    "Qwen2-MoE": Architecture("qwen2_moe", EXPERTS),
    "Qwen2.5-VL": Architecture("qwen2_5_vl", ROTARY_SECTIONS, {"vision_config": VISION}),
    "Qwen3": Architecture("qwen3", {}),
    "Qwen3-MoE": Architecture("qwen3_moe", EXPERTS),
    "Qwen3-Next": Architecture("qwen3_next", EXPERTS | LINEAR),
    "Qwen3-VL": Architecture(
        "qwen3_vl",
        ROTARY_SECTIONS,
        {"vision_config": {**VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}},
    ),
    "Qwen3.5": Architecture("qwen3_5", LINEAR, {"vision_config": VISION}),
    "Qwen3.5-MoE": Architecture("qwen3_5_moe", EXPERTS | LINEAR, {"vision_config": VISION}),
    "Llama": Architecture("llama", {}),
    "Llama, tied embeddings": Architecture("llama", {"tie_word_embeddings": True}),
    "Llama 4, text": Architecture("llama4_text", {**EXPERTS, "intermediate_size_mlp": 64, "attention_chunk_size": 64}),
    "Mistral": Architecture("mistral", {"sliding_window": 8}),
    "Ministral": Architecture("ministral", SLIDING),
    "Ministral 3": Architecture("ministral3", {}),
    "Mistral 3 (Small 3.1, Magistral)": Architecture(
        "mistral3", {"model_type": "mistral"}, {"vision_config": VISION | {"model_type": "pixtral"}}
    ),
    "Mistral 4": Architecture("mistral4", EXPERTS | ROUTED | LATENT | {"head_dim": 16}),  # of both its parts
    "Mistral Small 4": Architecture(
        "mistral3",
        {"model_type": "mistral4", **EXPERTS, **ROUTED, **LATENT, "head_dim": 16},
        {"vision_config": VISION | {"model_type": "pixtral"}},
    ),
    "Mixtral": Architecture("mixtral", EXPERTS),
    "Gemma": Architecture("gemma", {}),
    "Gemma 2": Architecture("gemma2", SLIDING),
    "Gemma 3, text": Architecture("gemma3_text", SLIDING),
    "Gemma 3": Architecture("gemma3", SLIDING, {"vision_config": VISION, "mm_tokens_per_image": 4}),
    "Gemma 3n, text": Architecture(
        "gemma3n_text",
        {**SHARED, "intermediate_size": [64] * 4, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4},
    ),
    "Gemma 4, text": Architecture("gemma4_text", SHARED),
    "Gemma 4, text, experts": Architecture(
        "gemma4_text", {**PER_LAYER, **SLIDING, **EXPERTS, "enable_moe_block": True, "top_k_experts": 2}
    ),
    "Phi": Architecture("phi", {}),
    "Phi-3": Architecture("phi3", {}),
    "Phi-4-mini (LongRoPE)": Architecture(
        "phi3", {"original_max_position_embeddings": 64, "rope_parameters": LONG_ROPE, "tie_word_embeddings": True}
    ),
    "Phi-3.5-MoE": Architecture("phimoe", EXPERTS),
    "GPT-2": Architecture("gpt2", {"n_inner": 64}),
    "gpt-oss": Architecture("gpt_oss", EXPERTS | SLIDING),
    "DeepSeek-V3": Architecture("deepseek_v3", EXPERTS | ROUTED | LATENT),
    "GLM-4": Architecture("glm4", {}),
    "GLM-4.5": Architecture("glm4_moe", EXPERTS | ROUTED),
    "GLM-4.7-Flash": Architecture("glm4_moe_lite", EXPERTS | ROUTED | LATENT),
    "GLM-4V": Architecture("glm4v", ROTARY_SECTIONS, {"vision_config": VISION}),
    "Nemotron": Architecture("nemotron", {}),
    "Nemotron-H": Architecture(
        "nemotron_h",
        {
            **EXPERTS,
            **ROUTED,
            "layers_block_type": ["mamba", "attention", "moe"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 16,
            "n_groups": 1,
            "chunk_size": 16,
            "moe_shared_expert_intermediate_size": 32,
        },
    ),
    "LFM2": Architecture("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "LFM2-MoE": Architecture("lfm2_moe", {**EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "Granite": Architecture("granite", {}),
    "Granite-MoE": Architecture("granitemoe", EXPERTS),
    "Granite 4 (hybrid)": Architecture(
        "granitemoehybrid", {**EXPERTS, **MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32}
    ),
    "EXAONE 4": Architecture("exaone4", SLIDING),
    "Seed-OSS": Architecture("seed_oss", {}),
    "Hunyuan, dense": Architecture("hunyuan_v1_dense", {}),
    "Hunyuan, MoE": Architecture("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": [2, 2]}),
    "Falcon-H1": Architecture("falcon_h1", MAMBA),
    "Bamba": Architecture("bamba", {**MAMBA, "attn_layer_indices": [1]}),
    "Jamba": Architecture(
        "jamba",
        {
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "MiniMax": Architecture("minimax", {**EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 16}),
    "MiniMax-M2": Architecture("minimax_m2", EXPERTS),
    "RecurrentGemma": Architecture(
        "recurrent_gemma", {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 8}
    ),
    "OLMo 2": Architecture("olmo2", {}),
    "OLMo 3": Architecture("olmo3", SLIDING),
    "Command A (Cohere2)": Architecture("cohere2", SLIDING),
    "SmolLM3": Architecture("smollm3", {"no_rope_layers": [1, 0]}),
    "ERNIE 4.5": Architecture("ernie4_5", {}),
    "ERNIE 4.5, MoE": Architecture(
        "ernie4_5_moe", {**EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1}
    ),
    "Kimi-Linear": Architecture(
        "kimi_linear",
        {
            **EXPERTS,
            **ROUTED,
            **LATENT,
            "q_lora_rank": None,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
            "mlp_layer_types": ["dense", "sparse"],
        },
    ),
    "Kimi-K2.5": Architecture(
        "kimi_k25", {"model_type": "deepseek_v3", **EXPERTS, **ROUTED, **LATENT}, {"vision_config": VISION}
    ),
    "InternVL": Architecture(
        "internvl", {"model_type": "qwen2"}, {"vision_config": VISION | {"image_size": [28, 28], "patch_size": [14, 14]}}
    ),
    "Mamba 2": Architecture("mamba2", {"num_heads": 8, "n_groups": 1, "chunk_size": 16}),
}


def build_model(name: str, seed: int = 0) -> PreTrainedModel:
    """Make a tiny model with random weights.

    Args:
        name: Its name in `ARCHITECTURES`.
        seed: Seed of its weights.
    """
    torch.manual_seed(seed)
    model_type, settings, outer = ARCHITECTURES[name]
    settings = SIZES | settings
    if outer is None:
        config = AutoConfig.for_model(model_type, **settings)
    else:
        config = AutoConfig.for_model(model_type, text_config=settings, **IMAGES, **outer)
    takes_images = type(config) in AutoModelForImageTextToText._model_mapping
    factory = AutoModelForImageTextToText if takes_images else AutoModelForCausalLM
    model = factory.from_config(config).eval()
    randomize(model)
    model.tie_weights()
    return model


def randomize(model: PreTrainedModel) -> None:
    """Give a model weights that are large enough for its outputs to depend on every one of them."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.3, 1.7)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
