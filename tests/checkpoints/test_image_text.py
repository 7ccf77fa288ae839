"""Models of images and text: loaded by the class that transformers has for them, and pruned where they read text."""

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, SiglipConfig

from optimum_ssgr.cards.render import PLACEHOLDER
from optimum_ssgr.checkpoints.load import load_model, load_skeleton
from optimum_ssgr.checkpoints.streaming import load_streamed
from optimum_ssgr.config import PruningConfig, SamplingConfig
from optimum_ssgr.errors import ModelError
from optimum_ssgr.likelihood import response_nll
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.pruning.blocks import find_blocks, find_matrices
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.rollouts.local import LocalEngine

from ..models import SMALL, randomize, slow_but
from ..rollouts.test_local import ENDINGS, by_request, requests
from .test_streaming import DATA, save


TEXT = SMALL | {"head_dim": 8}
ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
EXPERTS = {"num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
EXPERTS |= {"n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 4, "first_k_dense_replace": 1}
# As many layers as the text model has: nothing but its place tells which is which.
EYES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "depth": 2,
}
EYES |= {
    "out_hidden_size": 32,
    "patch_size": 4,
    "image_size": 8,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}
SCALED = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 64}
SCALED |= {"llama_4_scaling_beta": 0.1}
TYPES = {
    "mistral3": {
        "text_config": {"model_type": "mistral", **TEXT},
        "vision_config": {"model_type": "pixtral", **EYES, "head_dim": 8},
    },
    "qwen3_vl": {"text_config": TEXT | ROTARY, "vision_config": EYES},
    "qwen3_vl_moe": {"text_config": TEXT | ROTARY | EXPERTS, "vision_config": EYES},
    "qwen2_5_vl": {"text_config": TEXT | ROTARY, "vision_config": EYES},
    "glm4v": {"text_config": TEXT | ROTARY, "vision_config": EYES},
    "internvl": {
        "text_config": {"model_type": "qwen3", **TEXT},
        "vision_config": EYES | {"image_size": [8, 8], "patch_size": [4, 4]},
    },
    "kimi_k25": {"text_config": {"model_type": "deepseek_v3", **TEXT, **EXPERTS, **LATENT}, "vision_config": EYES},
}


def build(name):
    """Make a model whose outputs depend on every weight of its text model."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **TYPES[name])
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    randomize(model)
    return model


def stored(folder):
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


@pytest.mark.parametrize("name", slow_but(TYPES, ["qwen3_vl"]))
def test_the_text_model_is_pruned_and_the_rest_left_alone(tmp_path, name):
    built = build(name)
    source = save(built, tmp_path / "dense")
    dense, sparse = stored(tmp_path / "dense"), {}
    for streaming in (False, True):
        pruner = SSGRPruner.from_pretrained(source, streaming=streaming)
        assert type(pruner.model) is type(built)
        pruner.prune(DATA, PruningConfig(sparsity=0.5, true_sequential=True), journal_dir=tmp_path / f"journal-{streaming}")
        pruner.save_pretrained(tmp_path / f"sparse-{streaming}")
        sparse[streaming] = stored(tmp_path / f"sparse-{streaming}")
        assert sparse[streaming].keys() == dense.keys()
    assert all(torch.equal(tensor, sparse[True][key]) for key, tensor in sparse[False].items())
    changed = {key for key, tensor in dense.items() if not torch.equal(tensor, sparse[False][key])}
    assert changed and not any("vision" in key or "visual" in key for key in changed)

    model, _ = load_model(str(tmp_path / "sparse-False"))
    assert type(model) is type(built)
    for block_name, block in find_blocks(model).items():
        for matrix_name, matrix in find_matrices(block_name, block).items():
            assert (matrix.weight() == 0).float().mean() == pytest.approx(0.5, abs=0.02), matrix_name


def test_the_card_loads_it_by_its_own_class(tmp_path):
    source = save(build("qwen3_vl"), tmp_path / "dense")
    pruner = SSGRPruner.from_pretrained(source)
    pruner.prune(config=PruningConfig(method="magnitude"))
    pruner.save_pretrained(tmp_path / "sparse")
    text = (tmp_path / "sparse" / "README.md").read_text()
    assert ModelCard(text).data.pipeline_tag == "image-text-to-text"
    code = text.partition("```python\n")[2].partition("```")[0]
    placeholder = PLACEHOLDER.format("model")
    assert placeholder in code
    values = {}
    exec(code.replace(placeholder, str(tmp_path / "sparse")).replace("max_new_tokens=512", "max_new_tokens=2"), values)
    assert type(values["model"]) is type(pruner.model) and len(values["response"]) == 2


@pytest.mark.parametrize("name", slow_but(TYPES, ["qwen3_vl"]))
def test_text_alone_is_generated_and_scored(name):
    model = build(name)
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=12)
    engine = LocalEngine(model, sampling, batch_size=3, eos_token_ids=ENDINGS)
    found = by_request(engine.generate(requests(6)))
    pairs, expected = [], []
    for request in requests(6):
        ids = torch.tensor([request.prompt_ids])
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": list(ENDINGS), "pad_token_id": 0}
        response = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
        assert list(found[request.problem_id, 0].response_ids) == response.tolist()
        with torch.no_grad():
            scores = model(torch.cat([ids, response[None]], 1)).logits[0, ids.shape[1] - 1 : -1].log_softmax(-1)
        expected.append(-scores.gather(1, response[:, None]).sum().item())
        pairs.append((request.prompt_ids, response.tolist()))
    assert response_nll(model, pairs) == pytest.approx(expected, rel=1e-4)


def test_what_is_no_language_model_is_refused_in_a_sentence(tmp_path):
    SiglipConfig().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((WEIGHTS / name).read_bytes())
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    for load in (load_model, load_skeleton, load_streamed):
        with pytest.raises(ModelError, match=r"cannot load the model .* models of the type 'siglip' are no language models"):
            load(str(tmp_path))
