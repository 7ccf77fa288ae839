"""Nothing of the original is lost: what a checkpoint holds is what the original holds, but for the pruned matrices."""

import copy
import hashlib
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Glm4MoeConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    conversion_mapping,
)
from transformers.core_model_loading import ConversionOps, Split, WeightConverter

from optimum_ssgr.checkpoints.carry import carry_files
from optimum_ssgr.checkpoints.load import load_skeleton
from optimum_ssgr.checkpoints.streaming import check_streamable
from optimum_ssgr.checkpoints.tensor_files import read_header
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ModelError, OutputError
from optimum_ssgr.hub.publish import repo_type_of
from optimum_ssgr.pruner import SSGRPruner
from optimum_ssgr.reasoner import WEIGHTS

from ..models import EXPERTS, SMALL, random_model
from ..pruning.naive import naive_magnitude
from ..pruning.test_architectures import LINEAR, WORKING, build


HALF = PruningConfig(method="magnitude", sparsity=0.5)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
BESIDE = {
    "preprocessor_config.json": b'{"image_size":  28}',
    "generation_config.json": b'{"temperature":  0.6, "do_sample": true, "eos_token_id": [2, 5]}',
    "LICENSE": b"as it was",
    "additional_chat_templates/tool_use.jinja": b"{{ messages }}",
    "assets/figures/a plot [1].png": b"\x89PNG",
}
LEFT_OUT = {
    "pytorch_model.bin": b"cos\nsystem\n",
    "optimizer.pt": b"",
    "notes": b"\x80\x04pickled under another name",
    "archive": b"PK\x03\x04as torch.save writes it",
    "model.Q4.gguf": b"GGUF",
    "consolidated.safetensors": b"",
    "adapter_config.json": b"{}",
    ".hidden": b"",
    "modeling_x.py": b"raise SystemExit",
    "assets/code.py": b"raise SystemExit",
    "assets/.cache/x": b"",
    "onnx/model.onnx": b"",
    "onnx/config.json": b"{}",
    "calibration/manifest.json": b"{}",
}
PREDICTION = {"mtp.fc.weight": torch.randn(32, 64), "mtp.layers.0.mlp.up_proj.weight": torch.randn(64, 32)}
PREDICTION |= {"mtp.layers.0.norm.weight": torch.randn(32, dtype=torch.float64), "mtp.steps": torch.arange(3)}
PREDICTION |= {
    "mtp.scale": torch.tensor(0.5),
    "mtp.none": torch.zeros(0, 4),
    "mtp.odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
}


def glm():
    """Its config promises one more layer than the class has, for predicting several tokens."""
    layers = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    return build(Glm4MoeConfig(**SMALL, **EXPERTS, **layers, moe_intermediate_size=32, head_dim=8, num_nextn_predict_layers=1))


def with_vision_tower():
    """What `AutoModelForCausalLM` loads of it is another class."""
    torch.manual_seed(0)
    text = {**SMALL, **LINEAR, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
    vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 4, "out_hidden_size": 32}
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision))


# A model, and what the files hold beside its tensors.
ORIGINALS = {
    "llama": (lambda: random_model("llama"), PREDICTION),
    "gpt2": (lambda: random_model("gpt2"), PREDICTION),
    "gemma3, sliding": (lambda: random_model("gemma3, sliding"), {}),
    "experts in parts": (lambda: random_model("qwen3 moe"), PREDICTION),
    "fused experts": (lambda: random_model("gpt-oss"), {}),
    "bfloat16, but for a part": (
        lambda: random_model("qwen3").bfloat16(),
        {"model.layers.0.input_layernorm.weight": torch.rand(32) + 0.5, **PREDICTION},
    ),
    "tied, and another head": (lambda: random_model("llama tied"), {"lm_head.weight": torch.randn(704, 32)}),
    "linear attention": (lambda: build(WORKING["linear and full attention"]), PREDICTION),
    "a layer more": (
        glm,
        {
            "model.layers.2.eh_proj.weight": torch.randn(32, 64),
            "model.layers.2.mlp.experts.0.up_proj.weight": torch.randn(32, 32),
            "model.layers.2.self_attn.q_proj.weight": torch.randn(32, 32),
        },
    ),
    "shared keys and values": (
        lambda: build(WORKING["shared keys and values"]),
        {f"model.layers.{n}.self_attn.{part}_proj.weight": torch.randn(16, 32) for n in (2, 3) for part in "kv"},
    ),
    "vision tower": (with_vision_tower, PREDICTION),
}


def write_original(name, folder, shard="50KB", beside=True):
    make, added = ORIGINALS[name]
    make().save_pretrained(folder, max_shard_size=shard)
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"] if index.exists() else {}
    by_file = {}
    for key, tensor in added.items():
        by_file.setdefault(placed.get(key, min(placed.values(), default="model.safetensors")), {})[key] = tensor.clone()
    for file, tensors in by_file.items():
        save_file(load_file(folder / file) | tensors, folder / file, {"format": "pt"})
        placed |= dict.fromkeys(tensors, file)
    if index.exists():
        index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    for file in TOKENIZER:  # written otherwise than transformers would
        (folder / file).write_bytes((WEIGHTS / file).read_bytes() + (b"  \n" if file.endswith(".json") else b""))
    for file, content in (BESIDE | LEFT_OUT).items() if beside else ():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return str(folder)


def tensors_of(folder):
    """All tensors by name, as safetensors itself reads them; none is stored twice."""
    found = {}
    for path in folder.glob("*.safetensors"):
        if path.stat().st_size:
            tensors = load_file(path)
            assert not found.keys() & tensors.keys()
            found |= tensors
    return found


def is_same(one, other):
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


def prune(source, folder, streaming, **options):
    pruner = SSGRPruner.from_pretrained(source, streaming=streaming, **options)
    pruner.prune(config=HALF, journal_dir=folder / f"journal-{streaming}" if streaming else None)
    pruner.save_pretrained(folder / f"sparse-{streaming}")
    return folder / f"sparse-{streaming}"


@pytest.mark.parametrize("name", ORIGINALS)
def test_all_but_the_pruned_matrices_is_as_it_was(tmp_path, name):
    source = write_original(name, tmp_path / "dense")
    original = tensors_of(tmp_path / "dense")
    saved = {}
    for streaming in (False, True):
        folder = prune(source, tmp_path, streaming)
        saved[streaming] = tensors_of(folder)
        assert {key: (tensor.dtype, tensor.shape) for key, tensor in saved[streaming].items()} == {
            key: (tensor.dtype, tensor.shape) for key, tensor in original.items()
        }
        for key, tensor in saved[streaming].items():
            if key in ORIGINALS[name][1] or not is_same(tensor, original[key]):
                is_pruned = key not in ORIGINALS[name][1] and (tensor == 0).float().mean() > 0.4
                assert is_pruned != is_same(tensor, original[key]), key
        for file in ("config.json", *TOKENIZER, *BESIDE):
            assert (folder / file).read_bytes() == (tmp_path / "dense" / file).read_bytes(), file
        assert not any((folder / file).exists() for file in LEFT_OUT)
        assert repo_type_of(folder) == "model"  # nothing in it forbids a push
        for path in folder.glob("*.safetensors"):
            for stored in read_header(path)[0].values():  # as safetensors aligns them
                assert stored.size == 0 or stored.begin % (stored.size // math.prod(stored.shape)) == 0
        index = folder / "model.safetensors.index.json"
        placed = json.loads(index.read_text())["weight_map"] if index.exists() else {}
        for key, file in placed.items():
            with safe_open(folder / file, framework="pt") as tensors:
                assert key in set(tensors.keys())
    blocks = {key for key, tensor in saved[False].items() if not is_same(tensor, original[key])}
    assert len(blocks) >= 8
    assert all(is_same(tensor, saved[False][key]) for key, tensor in saved[True].items())


class Scrambled(ConversionOps):
    """What nobody knows how to undo."""

    def convert(self, input_dict, target_patterns, **_):
        [tensors] = input_dict.values()
        return {target_patterns[0]: tensors[0].flip(0)}


def fuse(tensors, block):
    return {f"{block}self_attn.qkv.weight": torch.cat([tensors.pop(f"{block}self_attn.{n}_proj.weight") for n in "qkv"])}


def scramble(tensors, block):
    return {f"{block}mlp.up.weight": tensors.pop(f"{block}mlp.up_proj.weight").flip(0).contiguous()}


# How a file stores what the model has, and the rule of transformers that makes the model's out of it.
STORED_OTHERWISE = {
    "matrices in one": (
        fuse,
        WeightConverter("self_attn.qkv", [f"self_attn.{n}_proj" for n in "qkv"], [Split(dim=0)]),
    ),
    "what cannot be undone": (
        scramble,
        WeightConverter("mlp.up.weight", "mlp.up_proj.weight", [Scrambled()]),
    ),
}


@pytest.fixture
def stored_otherwise(monkeypatch, tmp_path, request):
    """A llama whose files do not store its tensors as it has them."""
    change, rule = STORED_OTHERWISE[request.param]
    source = write_original("llama", tmp_path / "dense", shard="1GB", beside=False)
    monkeypatch.setitem(conversion_mapping._checkpoint_conversion_mapping_cache, "llama", [rule])
    tensors = load_file(tmp_path / "dense" / "model.safetensors")
    for block in range(2):
        tensors |= change(tensors, f"model.layers.{block}.")
    save_file(tensors, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    return source


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("stored_otherwise", ["matrices in one"], indirect=True)
def test_what_is_stored_in_one_is_put_back_in_one(tmp_path, stored_otherwise, streaming):
    original, saved = tensors_of(tmp_path / "dense"), tensors_of(prune(stored_otherwise, tmp_path, streaming))
    assert {key: tensor.shape for key, tensor in saved.items()} == {key: tensor.shape for key, tensor in original.items()}
    for block in range(2):
        dense, sparse = (tensors[f"model.layers.{block}.self_attn.qkv.weight"] for tensors in (original, saved))
        for before, after in zip(dense.split([32, 16, 16]), sparse.split([32, 16, 16]), strict=True):  # each as a matrix
            assert torch.equal(after.double(), naive_magnitude(before, sparsity=0.5)[0])


@pytest.mark.parametrize("stored_otherwise", ["what cannot be undone"], indirect=True)
def test_what_cannot_be_put_back_is_refused_before_the_work(tmp_path, stored_otherwise):
    said = r"stores model\.layers\.0\.mlp\.up\.weight in a form that cannot be written again after pruning"
    with pytest.raises(ModelError, match=said):
        SSGRPruner.from_pretrained(stored_otherwise, streaming=True)
    with pytest.raises(ModelError, match=said):
        check_streamable(stored_otherwise, load_skeleton(stored_otherwise))
    pruner = SSGRPruner.from_pretrained(stored_otherwise)
    before = {key: tensor.clone() for key, tensor in pruner.model.state_dict().items()}
    with pytest.raises(ModelError, match=said):
        pruner.prune(config=HALF)
    assert all(torch.equal(tensor, before[key]) for key, tensor in pruner.model.state_dict().items())


def test_further_templates_are_kept_though_transformers_was_not_told_of_them(tmp_path):
    """As where the Hub lists none of them when the tokenizer is loaded."""
    source = write_original("llama", tmp_path / "dense")
    pruner = SSGRPruner.from_pretrained(source)
    assert pruner.tokenizer.chat_template.keys() == {"default", "tool_use"}
    pruner.tokenizer.chat_template = pruner.tokenizer.chat_template["default"]
    pruner.prune(config=HALF)
    pruner.save_pretrained(tmp_path / "sparse")
    for file in (*TOKENIZER, *BESIDE):
        assert (tmp_path / "sparse" / file).read_bytes() == (tmp_path / "dense" / file).read_bytes(), file


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_carried_has_the_type_that_was_asked_for(tmp_path, streaming):
    source = write_original("llama", tmp_path / "dense")
    folder = prune(source, tmp_path, streaming, dtype="bfloat16")
    original, saved = tensors_of(tmp_path / "dense"), tensors_of(folder)
    assert saved.keys() == original.keys()
    for key, tensor in original.items():
        assert saved[key].dtype == (torch.bfloat16 if tensor.is_floating_point() else tensor.dtype), key
    assert is_same(saved["mtp.fc.weight"], original["mtp.fc.weight"].bfloat16())
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_a_single_file_stays_one(tmp_path):
    source = write_original("llama", tmp_path / "dense", shard="1GB")
    folder = prune(source, tmp_path, streaming=False)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert tensors_of(folder).keys() == tensors_of(tmp_path / "dense").keys()


def test_code_comes_along_only_where_it_is_trusted(tmp_path):
    (tmp_path / "dense").mkdir()
    config = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}, "model_type": "llama"}
    (tmp_path / "dense" / "config.json").write_text(json.dumps(config))
    (tmp_path / "dense" / "modeling_x.py").write_text("X = 1\n")
    for trusted in (True, False):
        target = tmp_path / f"trusted-{trusted}"
        target.mkdir()
        carry_files(tmp_path / "dense", target, trusted)
        assert (target / "modeling_x.py").exists() == trusted
        assert ("auto_map" in json.loads((target / "config.json").read_text())) == trusted


def test_a_link_does_not_take_along_what_is_elsewhere(tmp_path):
    for place in ("dense", "target"):
        (tmp_path / place).mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "dense" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "dense" / "mine.txt").write_text("mine")
    carry_files(tmp_path / "dense", tmp_path / "target", False)
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["mine.txt"]
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "1234"
    for place in (blobs, snapshot):
        place.mkdir(parents=True)
    (blobs / "ab").write_text("of the Hub")
    (snapshot / "LICENSE").symlink_to("../../blobs/ab")
    carry_files(snapshot, tmp_path / "target", False)
    assert (tmp_path / "target" / "LICENSE").read_text() == "of the Hub"


def test_a_tokenizer_and_generation_settings_that_were_changed_are_those_that_are_saved(tmp_path):
    source = write_original("llama", tmp_path / "dense")
    pruner = SSGRPruner.from_pretrained(source)
    pruner.tokenizer.chat_template = "{{ messages[0].content }}"
    pruner.model.generation_config.temperature = 0.9
    pruner.prune(config=HALF)
    pruner.save_pretrained(tmp_path / "sparse")
    assert AutoTokenizer.from_pretrained(tmp_path / "sparse").chat_template == "{{ messages[0].content }}"
    assert json.loads((tmp_path / "sparse" / "generation_config.json").read_text())["temperature"] == 0.9
    assert (tmp_path / "sparse" / "preprocessor_config.json").read_bytes() == BESIDE["preprocessor_config.json"]


def test_weights_that_were_changed_after_loading_are_saved_as_they_are(tmp_path, caplog):
    source = write_original("llama", tmp_path / "dense")
    pruner = SSGRPruner.from_pretrained(source)
    pruner.model.model.norm.weight.data *= 2
    pruner.prune(config=HALF)
    pruner.save_pretrained(tmp_path / "sparse")
    assert "model.norm.weight was changed after it was loaded" in caplog.text
    assert torch.equal(tensors_of(tmp_path / "sparse")["model.norm.weight"], pruner.model.model.norm.weight)


def test_a_model_that_was_built_in_python_is_saved_as_it_is(tmp_path, reasoner):
    pruner = SSGRPruner(random_model("llama"), copy.deepcopy(reasoner[1]))
    pruner.prune(config=HALF)
    pruner.save_pretrained(tmp_path / "sparse")
    assert tensors_of(tmp_path / "sparse").keys() == random_model("llama").state_dict().keys()


def test_a_checkpoint_that_lost_or_changed_something_is_refused(tmp_path):
    source = write_original("llama", tmp_path / "dense")
    pruner = SSGRPruner.from_pretrained(source, streaming=True)
    pruner.prune(config=HALF, journal_dir=tmp_path / "journal")
    block = tmp_path / "journal" / "block-00000.safetensors"
    tensors = load_file(block)
    tensors["model.layers.0.input_layernorm.weight"] *= 2
    save_file(tensors, block, {"format": "pt"})
    with pytest.raises(OutputError, match=r"other values of model\.layers\.0\.input_layernorm\.weight .* not pruned"):
        pruner.save_pretrained(tmp_path / "sparse")
    assert not (tmp_path / "sparse").exists()


@pytest.mark.parametrize("damage", ["cut", "longer", "no header", "huge header"])
def test_damaged_files_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(8)}, path)
    content = path.read_bytes()
    changed = {"cut": content[:-4], "longer": content + b"0000", "no header": b"{}", "huge header": b"\xff" * 64}[damage]
    path.write_bytes(changed)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        read_header(path)


def test_the_original_is_only_read(tmp_path):
    source = write_original("llama", tmp_path / "dense")

    def hashes():
        paths = [path for path in (tmp_path / "dense").rglob("*") if path.is_file()]
        return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_nlink) for path in paths}

    before = hashes()
    prune(source, tmp_path, streaming=True)
    assert hashes() == before
