"""Models larger than memory: the same bits as in memory, from the files alone."""

import itertools
import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_ssgr.checkpoints.load import load_skeleton as skeleton
from optimum_ssgr.checkpoints.streaming import check_streamable, load_streamed
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ConfigError, ModelError, OutputError
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.reasoner import NAME, WEIGHTS

from ..models import CONFIGS, MIXTURES, random_model, slow_but
from ..pruning.test_architectures import WORKING, build
from ..pruning.test_layerwise import random_sequences


STREAMED = [*itertools.product(CONFIGS, [False, True]), *((name, True) for name in MIXTURES)]
DATA = Dataset.from_dict({"input_ids": random_sequences((40, 33, 50, 12, 60))})


def save(model, folder, shard="50KB"):
    model.save_pretrained(folder, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((WEIGHTS / name).read_bytes())
    return str(folder)


def stored_names(folder):
    return {key for path in folder.glob("*.safetensors") for key in load_file(path)}


@pytest.mark.parametrize("name, true_sequential", slow_but(STREAMED, [("llama", False), ("gpt2", True), ("mixtral", True)]))
def test_streamed_equals_resident(tmp_path, name, true_sequential):
    source = save(random_model(name), tmp_path / "dense")
    config = PruningConfig(sparsity=0.5, true_sequential=true_sequential)
    saved, names = {}, {}
    for streaming in (False, True):
        pruner = SSGRPruner.from_pretrained(source, streaming=streaming)
        report = pruner.prune(DATA, config, journal_dir=tmp_path / f"journal-{streaming}", activation_gb=20e-6)
        assert report.parameters == random_model(name).num_parameters()
        if streaming:
            assert list((tmp_path / "journal-True" / "activations-0").glob("*.safetensors"))  # some did not fit
        pruner.save_pretrained(tmp_path / f"sparse-{streaming}")
        saved[streaming] = AutoModelForCausalLM.from_pretrained(tmp_path / f"sparse-{streaming}").state_dict()
        names[streaming] = stored_names(tmp_path / f"sparse-{streaming}")
    assert names[True] == names[False]  # one expert at a time where transformers writes them so
    if name in CONFIGS:  # which are stored as they are held, so that a block takes no space again
        assert (tmp_path / "journal-True" / "block-00000.safetensors").stat().st_nlink == 2
    assert saved[True].keys() == saved[False].keys()
    for key, tensor in saved[True].items():
        assert torch.equal(tensor, saved[False][key]), key


@pytest.mark.parametrize("name", slow_but(WORKING, ["shared expert"]))
def test_unusual_architectures_stream_too(tmp_path, name):
    source = save(build(WORKING[name]), tmp_path / "dense")
    saved, names = [], []
    for streaming in (False, True):
        pruner = SSGRPruner.from_pretrained(source, streaming=streaming)
        pruner.prune(DATA, PruningConfig(true_sequential=True), journal_dir=tmp_path / f"journal-{streaming}")
        pruner.save_pretrained(tmp_path / f"sparse-{streaming}")
        saved.append(AutoModelForCausalLM.from_pretrained(tmp_path / f"sparse-{streaming}").state_dict())
        names.append(stored_names(tmp_path / f"sparse-{streaming}"))
    assert names[0] == names[1] == stored_names(tmp_path / "dense")
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(tensor, saved[1][key]) for key, tensor in saved[0].items())


@pytest.mark.parametrize("method, allocation", [("magnitude", "uniform"), ("wanda", "owl")])
def test_other_methods_stream_too(tmp_path, method, allocation):
    source = save(random_model("qwen3"), tmp_path / "dense")
    config = PruningConfig(method=method, sparsity=0.5, allocation=allocation, true_sequential=False)
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


@pytest.mark.parametrize("told", [True, False], ids=["in the config", "by the tensors alone"])
def test_dtype_is_the_checkpoints_own(tmp_path, told):
    source = save(random_model("llama").bfloat16(), tmp_path / "dense")
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    if not told:
        del config["dtype"]
        (tmp_path / "dense" / "config.json").write_text(json.dumps(config))
    model, _, weights = load_streamed(source)
    assert model.dtype == weights.read("model.norm.weight").dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(source).dtype == torch.bfloat16


@pytest.mark.parametrize("said", [True, False], ids=["in the config", "by the tensors alone"])
def test_quantized_weights_are_refused_rather_than_read_without_their_scale(tmp_path, said):
    model = random_model("llama")
    source = save(model, tmp_path / "dense", shard="1GB")
    built = skeleton(source)
    weights = load_file(tmp_path / "dense" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    scale = weights[name].abs().max() / 448
    weights |= {name: (weights[name] / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale.reshape(1, 1)}
    save_file(weights, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    if said:
        config = json.loads((tmp_path / "dense" / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        (tmp_path / "dense" / "config.json").write_text(json.dumps(config))
        built = skeleton(source)
    told = "is quantized, so it cannot be streamed" if said else r"holds model\.layers\.1\.mlp\.up_proj\.weight as F8_E4M3"
    for check in (lambda: load_streamed(source), lambda: check_streamable(source, built)):
        with pytest.raises(ModelError, match=f"{told}.*; save it dequantized first"):
            check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said_in_one_sentence():
    with pytest.raises(ModelError, match="cannot load the model 'tiny-reasoner'"):
        SSGRPruner.from_pretrained(NAME, streaming=True, device_map="cuda")


def test_nothing_but_what_is_held_takes_memory(tmp_path):
    source = save(random_model("llama"), tmp_path / "dense")
    model, _, weights = load_streamed(source)
    assert all(parameter.is_meta for parameter in model.parameters())
    block = model.model.layers[0]
    with weights.onload_block("model.layers.0", block):
        assert not any(parameter.is_meta for parameter in block.parameters())
        assert all(parameter.is_meta for parameter in model.model.layers[1].parameters())
    assert all(parameter.is_meta for parameter in model.parameters())


def test_streamed_run_equals_the_model(tmp_path):
    dense = random_model("llama tied")
    model, _, weights = load_streamed(save(dense, tmp_path / "dense"))
    ids = torch.tensor(DATA["input_ids"][0])[None]
    torch.testing.assert_close(weights.run(model, ids), dense(ids).logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_streamed_is_said_first(tmp_path):
    source = save(random_model("llama"), tmp_path / "other", shard="1GB")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.layers.1.mlp.foreign.weight"] = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    for check in (
        lambda: SSGRPruner.from_pretrained(source, streaming=True),
        lambda: check_streamable(source, skeleton(source)),
    ):
        with pytest.raises(ModelError, match=r"does not hold model\.layers\.1\.mlp\.up_proj\.weight under that name"):
            check()
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
    with pytest.raises(ModelError, match="which is missing; download or save the checkpoint again; only a whole"):
        SSGRPruner.from_pretrained(str(tmp_path / "dense"), streaming=True)


def test_files_that_the_index_does_not_name_are_not_read(tmp_path):
    source = save(random_model("llama"), tmp_path / "dense")
    save_file({"model.norm.weight": torch.zeros(32)}, tmp_path / "dense" / "z-consolidated.safetensors", {"format": "pt"})
    (tmp_path / "dense" / "training.safetensors").write_bytes(b"not safetensors")
    _, _, weights = load_streamed(source)
    assert torch.equal(weights.read("model.norm.weight"), random_model("llama").model.norm.weight)


@pytest.mark.parametrize("stored", ["both", "head alone", "two that differ"])
def test_tied_weights_that_are_stored_otherwise(tmp_path, stored):
    """They stay as they are stored, also those that transformers would not tie."""
    source = save(random_model("llama tied"), tmp_path / "dense", shard="1GB")
    tensors = load_file(tmp_path / "dense" / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embeddings.clone() * (2 if stored == "two that differ" else 1)
    if stored == "head alone":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    pruner = SSGRPruner.from_pretrained(source, streaming=True)
    pruner.prune(DATA, PruningConfig(method="wanda"), journal_dir=tmp_path / "journal")
    pruner.save_pretrained(tmp_path / "sparse")
    written = [key for path in (tmp_path / "sparse").glob("*.safetensors") for key in load_file(path)]
    assert sorted(written) == sorted(tensors)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert torch.equal(reloaded.lm_head.weight, tensors["lm_head.weight"])
    assert torch.equal(reloaded.model.embed_tokens.weight, embeddings)


@pytest.mark.parametrize("dtype, kept", [("float16", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_transformers_keeps_in_float32_is_kept(tmp_path, dtype, kept):
    source = save(random_model("gpt-oss"), tmp_path / "dense")
    _, _, weights = load_streamed(source, dtype=dtype)
    resident = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).state_dict()
    assert resident["model.norm.weight"].dtype == kept
    for name in weights.names:
        assert weights.read(name).dtype == resident[name].dtype, name


def test_weights_that_do_not_run_are_not_called_done(tmp_path):
    pruner = SSGRPruner.from_pretrained(save(random_model("llama"), tmp_path / "dense"), streaming=True)
    pruner.prune(DATA, PruningConfig(), journal_dir=tmp_path / "journal")
    block = tmp_path / "journal" / "block-00001.safetensors"
    tensors = load_file(block)
    pruned = {key: torch.full_like(tensor, torch.nan) if "proj" in key else tensor for key, tensor in tensors.items()}
    save_file(pruned, block, {"format": "pt"})
    with pytest.raises(OutputError, match="does not run"):
        pruner.save_pretrained(tmp_path / "sparse")
    assert not (tmp_path / "sparse").exists()
