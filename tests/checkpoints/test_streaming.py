"""Models larger than memory: the same bits as in memory, from the files alone."""

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_ssgr.checkpoints.streaming import load_streamed
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ConfigError, ModelError, OutputError
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.reasoner import NAME, WEIGHTS

from ..models import CONFIGS, random_model
from ..pruning.test_layerwise import random_sequences


DATA = Dataset.from_dict({"input_ids": random_sequences((40, 33, 50, 12, 60))})


def save(model, folder, shard="50KB"):
    model.save_pretrained(folder, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((WEIGHTS / name).read_bytes())
    return str(folder)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("mode", ["two_pass", "staged"])
def test_streamed_equals_resident(tmp_path, name, mode):
    source = save(random_model(name), tmp_path / "dense")
    config = PruningConfig(sparsity=0.5, mode=mode)
    saved = {}
    for streaming in (False, True):
        pruner = SSGRPruner.from_pretrained(source, streaming=streaming)
        report = pruner.prune(DATA, config, journal_dir=tmp_path / f"journal-{streaming}", activation_gb=20e-6)
        assert report.parameters == random_model(name).num_parameters()
        if streaming:
            assert list((tmp_path / "journal-True" / "activations-0").glob("*.safetensors"))  # some did not fit
        pruner.save_pretrained(tmp_path / f"sparse-{streaming}")
        saved[streaming] = AutoModelForCausalLM.from_pretrained(tmp_path / f"sparse-{streaming}").state_dict()
    assert saved[True].keys() == saved[False].keys()
    for key, tensor in saved[True].items():
        assert torch.equal(tensor, saved[False][key]), key


@pytest.mark.parametrize("method, allocation", [("magnitude", "uniform"), ("wanda", "owl")])
def test_other_methods_stream_too(tmp_path, method, allocation):
    source = save(random_model("qwen3"), tmp_path / "dense")
    config = PruningConfig(method=method, sparsity=0.5, allocation=allocation, mode="two_pass")
    saved = []
    for streaming in (False, True):
        pruner = SSGRPruner.from_pretrained(source, streaming=streaming)
        pruner.prune(DATA, config, journal_dir=tmp_path / f"journal-{streaming}")
        pruner.save_pretrained(tmp_path / f"sparse-{streaming}")
        saved.append(AutoModelForCausalLM.from_pretrained(tmp_path / f"sparse-{streaming}").state_dict())
    assert all(torch.equal(tensor, saved[1][key]) for key, tensor in saved[0].items())


def test_dtype_is_that_asked_for(tmp_path):
    source = save(random_model("llama"), tmp_path / "dense")
    pruner = SSGRPruner.from_pretrained(source, streaming=True, dtype="bfloat16")
    pruner.prune(DATA, PruningConfig(), journal_dir=tmp_path / "journal")
    pruner.save_pretrained(tmp_path / "sparse")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert {parameter.dtype for parameter in reloaded.parameters()} == {torch.bfloat16}


def test_nothing_but_what_is_held_takes_memory(tmp_path):
    source = save(random_model("llama"), tmp_path / "dense")
    model, _, weights = load_streamed(source)
    assert all(parameter.is_meta for parameter in model.parameters())
    block = model.model.layers[0]
    with weights.block("model.layers.0", block):
        assert not any(parameter.is_meta for parameter in block.parameters())
        assert all(parameter.is_meta for parameter in model.model.layers[1].parameters())
    assert all(parameter.is_meta for parameter in model.parameters())


def test_streamed_run_equals_the_model(tmp_path):
    dense = random_model("llama tied")
    model, _, weights = load_streamed(save(dense, tmp_path / "dense"))
    ids = torch.tensor(DATA["input_ids"][0])[None]
    torch.testing.assert_close(weights.run(model, ids), dense(ids).logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_streamed_is_said_first(tmp_path):
    dense = random_model("qwen3 moe")  # its checkpoint stores every expert by itself
    with pytest.raises(ModelError, match=r"does not hold model\.layers\.0\.mlp\.experts\.gate_up_proj under that name"):
        SSGRPruner.from_pretrained(save(dense, tmp_path / "experts"), streaming=True)
    save(random_model("llama"), tmp_path / "dense")
    [first, *_] = sorted((tmp_path / "dense").glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:200])
    with pytest.raises(ModelError, match="is damaged"):
        SSGRPruner.from_pretrained(str(tmp_path / "dense"), streaming=True)
    with pytest.raises(ModelError, match="computes on one device"):
        SSGRPruner.from_pretrained(NAME, streaming=True, device_map="auto")
    with pytest.raises(ConfigError, match="needs a journal_dir"):
        SSGRPruner.from_pretrained(NAME, streaming=True).prune(DATA, PruningConfig())


def test_missing_shard_is_said_first(tmp_path):
    save(random_model("llama"), tmp_path / "dense")
    sorted((tmp_path / "dense").glob("*.safetensors"))[1].unlink()
    with pytest.raises(ModelError, match="does not hold"):
        SSGRPruner.from_pretrained(str(tmp_path / "dense"), streaming=True)


def test_weights_that_do_not_run_are_not_called_done(tmp_path):
    pruner = SSGRPruner.from_pretrained(save(random_model("llama"), tmp_path / "dense"), streaming=True)
    pruner.prune(DATA, PruningConfig(), journal_dir=tmp_path / "journal")
    block = tmp_path / "journal" / "block-00001.safetensors"
    tensors = load_file(block)
    save_file({key: torch.full_like(tensor, torch.nan) for key, tensor in tensors.items()}, block, {"format": "pt"})
    with pytest.raises(OutputError, match="does not run"):
        pruner.save_pretrained(tmp_path / "sparse")
    assert not (tmp_path / "sparse").exists()
