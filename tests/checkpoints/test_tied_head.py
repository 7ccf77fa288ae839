"""A head that the config ties to the embeddings while the file holds another: transformers takes the file's, and so do we."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_ssgr import PruningConfig, SSGRPruner

from ..models import random_model
from .test_streaming import DATA, save


@pytest.fixture
def source(tmp_path):
    folder = save(random_model("llama tied"), tmp_path / "dense", shard="1GB")
    weights = load_file(tmp_path / "dense" / "model.safetensors")
    assert "lm_head.weight" not in weights
    head = torch.randn(704, 32, generator=torch.Generator().manual_seed(3))
    save_file(weights | {"lm_head.weight": head}, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_head_beside_a_tied_config_stays_as_transformers_loads_it(tmp_path, source, streaming):
    theirs = AutoModelForCausalLM.from_pretrained(source)
    assert theirs.config.tie_word_embeddings
    assert not torch.equal(theirs.lm_head.weight, theirs.model.embed_tokens.weight)

    pruner = SSGRPruner.from_pretrained(source, streaming=streaming)
    pruner.prune(DATA, PruningConfig(method="wanda"), journal_dir=tmp_path / "journal")
    pruner.save_pretrained(tmp_path / "sparse")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    for name in ("lm_head", "model.embed_tokens"):
        assert torch.equal(again.get_submodule(name).weight, theirs.get_submodule(name).weight), name
    if not streaming:
        ids = torch.tensor(DATA["input_ids"][:1])
        torch.testing.assert_close(again(ids).logits, pruner.model(ids).logits, rtol=0, atol=0)
