import copy
from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_ssgr.pruning.attention import LEAST_TOKENS, causal_attention, use_short_attention

from ..models import CONFIGS


def naive_attention(query, key, value, scale):
    """Every score, in float64; later tokens are masked out."""
    query, key, value = (tensor.double() for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in (key, value))
    scores = scale * query @ key.mT
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ value


def sdpa_model(name):
    config = copy.deepcopy(CONFIGS[name])
    config.max_position_embeddings = 4 * LEAST_TOKENS
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("tokens", [1, 64, 65, 200])
def test_equals_attention_over_everything(tokens, heads, groups, dtype):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, tokens, heads, 24), (2, tokens, groups, 24), (2, tokens, groups, 40)]
    query, key, value = (torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes)
    query = query * 3
    found = causal_attention(query, key, value, 0.17)
    expected = naive_attention(query, key, value, 0.17)
    assert found.dtype == dtype
    # No further off than rounding the exact answer, or the weights of the values, to bfloat16 may be.
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_many_scores_are_computed_part_by_part(monkeypatch):
    query, key, value = torch.randn(3, 2, 6, 130, 16)
    whole = causal_attention(query, key, value, 0.25)
    monkeypatch.setattr("optimum_ssgr.pruning.attention.SCORES", 1)
    torch.testing.assert_close(causal_attention(query, key, value, 0.25), whole)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "phi", "gemma3, sliding"])
def test_models_put_out_the_same(name):
    model = sdpa_model(name)
    ids = torch.randint(3, 700, (2, LEAST_TOKENS + 30))
    expected = model(ids).logits
    with use_short_attention(), mock.patch("optimum_ssgr.pruning.attention.causal_attention", wraps=causal_attention) as used:
        found = model(ids).logits
    # A sliding window needs a mask, and blocks may have it or not; all others are computed here.
    windows = [kind == "sliding_attention" for kind in getattr(model.config, "layer_types", None) or [""] * 2]
    assert used.call_count == windows.count(False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model(ids).logits, expected)  # bit for bit what it was before


def test_padding_gradients_and_short_sequences_are_left_to_the_kernel():
    model = sdpa_model("llama")
    ids = torch.randint(3, 700, (2, LEAST_TOKENS))
    with use_short_attention(), mock.patch("optimum_ssgr.pruning.attention.causal_attention") as used:
        model(ids).logits.sum().backward()
        with torch.no_grad():
            model(ids[:, 1:])
            model(ids, attention_mask=(torch.arange(LEAST_TOKENS) > 3).expand(2, -1).long())
    used.assert_not_called()
