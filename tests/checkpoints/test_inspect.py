import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from optimum_ssgr.checkpoints.inspect import (
    INDEX,
    block_matrices,
    common_pattern,
    count_layers,
    find_checkpoint,
    inspect_checkpoint,
    quantized_matrices,
)
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.reasoner import WEIGHTS

from ..models import random_model


NAME = "model.layers.0.mlp.up_proj.weight"


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def keep(matrix, n, m):
    """Zero all but the n largest of every m entries of the last dimension."""
    order = matrix.abs().unflatten(-1, (-1, m)).argsort(dim=-1)
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., : m - n], True).flatten(-2)
    return matrix.masked_fill(mask, 0)


def inspect(folder, tensors, **options):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return {tensor.name: tensor for tensor in inspect_checkpoint(folder, **options)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n, m", [(1, 4), (2, 8), (2, 4), (4, 8), (8, 16), (16, 32), (3, 4), (6, 8)])
def test_patterns_are_recognised(tmp_path, n, m, dtype):
    matrix = keep(random(16, 64, dtype=dtype), n, m)
    found = inspect(tmp_path, {NAME: matrix})[NAME]
    assert (found.pattern, found.zeros) == (f"{n}:{m}", 16 * 64 * (m - n) // m)
    matrix[3, :m] = 1  # one group too full
    assert inspect(tmp_path, {NAME: matrix})[NAME].pattern != f"{n}:{m}"


def test_dense_and_unstructured_have_no_pattern(tmp_path):
    matrix = random(16, 64)
    assert inspect(tmp_path, {NAME: matrix})[NAME].patterns == ()
    assert inspect(tmp_path, {NAME: matrix * (matrix.abs() > 0.7)})[NAME].patterns == ()


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "6:8", "3:4", "8:16"])
def test_counts_equal_the_models(tmp_path, pattern):
    model = random_model("llama tied")
    reports = prune_layerwise(model, [], PruningConfig(method="magnitude", pattern=pattern))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = {tensor.name: tensor for tensor in inspect_checkpoint(tmp_path)}
    assert sum(tensor.weights for tensor in found.values()) == model.num_parameters()
    assert {tensor.name for tensor in block_matrices(found.values())} == {report.name for report in reports}
    for report in reports:
        tensor = found[report.name]
        assert (tensor.shape, tensor.zeros, tensor.pattern) == (report.shape, report.zeros, pattern)


def test_slices_give_what_whole_tensors_give(tmp_path):
    late = keep(random(100, 64), 2, 4)
    late[97, :8] = 1  # breaks the pattern in the last slice alone
    tensors = {
        "model.layers.0.a.weight": keep(random(100, 64), 2, 4),
        "model.layers.0.b.weight": late,
        "model.layers.0.c.weight": keep(random(40, 96), 4, 8).T,
        "model.layers.0.experts.up": keep(random(3, 70, 32), 2, 4),
        "model.layers.0.experts.down": keep(random(3, 40, 96), 1, 4).mT,
        "model.embed_tokens.weight": random(333, 8).round(),
        "model.norm.weight": random(200).round(),
        "model.vision.weight": random(70, 2, 3, 3).round(),
        "model.scale": torch.tensor(0.0),
        "model.empty": torch.zeros(0, 4),
    }
    sliced = inspect(tmp_path, tensors, slice_bytes=1)
    assert sliced == inspect(tmp_path, tensors)
    for name, tensor in tensors.items():
        assert (sliced[name].zeros, sliced[name].shape) == (int((tensor == 0).sum()), tuple(tensor.shape))
    assert [sliced[f"model.layers.0.{name}.weight"].pattern for name in "abc"] == ["2:4", None, "4:8"]
    assert [sliced[f"model.layers.0.experts.{name}"].pattern for name in ("up", "down")] == ["2:4", "1:4"]


def test_transposed_layers_are_checked_along_their_inputs(tmp_path):
    """GPT-2 stores [in, out], so its groups run down the columns of what is stored."""
    model = random_model("gpt2")
    reports = prune_layerwise(model, [], PruningConfig(method="magnitude", pattern="2:4"))
    model.save_pretrained(tmp_path)
    matrices = block_matrices(list(inspect_checkpoint(tmp_path)))
    assert len(matrices) == len(reports)
    assert common_pattern(matrices) == "2:4"
    stored = load_file(tmp_path / "model.safetensors")[matrices[0].name]
    assert (stored.T.unflatten(1, (-1, 4)) != 0).sum(-1).max() == 2
    assert (stored.unflatten(1, (-1, 4)) != 0).sum(-1).max() > 2


def test_only_weights_of_blocks_are_matrices(tmp_path):
    tensors = {
        "model.layers.0.mlp.experts.gate_up_proj": keep(random(2, 8, 16), 2, 4),
        "model.layers.0.mlp.experts.gate_up_proj_bias": random(2, 16),
        "model.layers.1.mlp.experts.3.gate_proj.weight": keep(random(8, 16), 2, 4),
        "model.layers.0.mlp.gate.weight": random(2, 16),
        "model.layers.1.mlp.gate.wg.weight": random(2, 16),
        "model.layers.1.router.proj.weight": random(2, 16),
        "model.layers.0.mixer.conv1d.weight": random(16, 1, 4),
        "model.layers.0.input_layernorm.weight": random(16),
        "model.embed_tokens.weight": random(32, 16),
        "lm_head.weight": random(32, 16),
    }
    found = inspect(tmp_path, tensors)
    matrices = block_matrices(list(found.values()))
    assert {matrix.name for matrix in matrices} == {
        name for name in tensors if name.endswith(("gate_up_proj", "gate_proj.weight"))
    }
    assert common_pattern(matrices) == "2:4"
    alone = inspect(tmp_path, {"model.layers.0.mlp.gate.weight": random(4, 16)})  # no experts, so it is no router
    assert len(block_matrices(list(alone.values()))) == 1


@pytest.mark.parametrize("vision_layers", [3, 2], ids=["more blocks", "as many blocks"])
def test_vision_towers_are_not_counted(tmp_path, vision_layers):
    """Pruning leaves them dense; and what is pruned in the language model is just what is counted."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = size | {"vocab_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 8}
    vision = size | {"num_hidden_layers": vision_layers, "image_size": 16, "patch_size": 8}
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1))
    reports = prune_layerwise(model, [], PruningConfig(method="magnitude", pattern="2:4"))
    model.save_pretrained(tmp_path)
    tensors = list(inspect_checkpoint(tmp_path))
    assert count_layers(tmp_path) == 2
    for layers in (2, None):
        matrices = block_matrices(tensors, layers)
        assert len(matrices) == len(reports) == 14
        assert common_pattern(matrices) == "2:4"


def test_blocks_are_told_by_their_number(tmp_path):
    tower = {f"encoder.layers.{index}.fc.weight": random(8, 16) for index in range(3)}
    found = list(inspect(tmp_path, {f"model.layers.{index}.fc.weight": random(8, 16) for index in range(2)} | tower).values())
    assert count_layers(tmp_path) is None
    assert len(block_matrices(found)) == 5
    assert {tensor.name for tensor in block_matrices(found, 2)} == {f"model.layers.{index}.fc.weight" for index in range(2)}
    assert len(block_matrices(found, 7)) == 5
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        count_layers(tmp_path)


def test_blocks_after_the_last_are_not_counted(tmp_path):
    """As in GLM-4.5, which stores there what predicts further tokens: no runtime needs it, and pruning leaves it dense."""
    blocks = {f"model.layers.{index}.mlp.up_proj.weight": keep(random(8, 16), 2, 4) for index in range(2)}
    found = inspect(tmp_path, {**blocks, "model.layers.2.mlp.up_proj.weight": random(8, 16), "mtp.0.fc.weight": random(8, 16)})
    matrices = block_matrices(list(found.values()), 2)
    assert {matrix.name for matrix in matrices} == blocks.keys()
    assert common_pattern(matrices) == "2:4"


def test_a_pattern_is_common_only_when_all_keep_to_it(tmp_path):
    dense, half, quarter, nothing = random(8, 16), keep(random(8, 16), 2, 4), keep(random(8, 16), 1, 4), torch.zeros(8, 16)
    names = [f"model.layers.{i}.weight" for i in range(3)]

    def common(*matrices):
        return common_pattern(list(inspect(tmp_path, dict(zip(names, matrices, strict=False))).values()))

    assert common(half, dense) is None
    assert common(half, quarter, nothing) == "2:4"
    assert common(quarter, nothing) == "1:4"
    assert common(half, keep(random(8, 16), 4, 8)) == "4:8"


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float8_e4m3fn])
def test_quantized_tensors_are_not_called_sparse(tmp_path, dtype):
    found = inspect(tmp_path, {"model.layers.0.up_proj.weight": torch.zeros(8, 16).to(dtype), NAME: random(8, 16)})
    tensors = list(found.values())
    assert [tensor.name for tensor in block_matrices(tensors)] == [NAME]
    [packed] = quantized_matrices(tensors)
    assert (packed.name, packed.zeros, packed.pattern) == ("model.layers.0.up_proj.weight", None, None)


def test_an_index_must_agree_with_the_files(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    whole = sorted(tensor.name for tensor in inspect_checkpoint(tmp_path))
    index = json.loads((tmp_path / INDEX).read_text())
    assert sorted(index["weight_map"]) == whole
    save_file({"again": torch.zeros(2)}, tmp_path / "consolidated.safetensors")  # the index does not name it
    assert sorted(tensor.name for tensor in inspect_checkpoint(tmp_path)) == whole

    save_file({"alone": torch.zeros(2)}, tmp_path / "model.safetensors")  # which transformers prefers to the index
    assert [tensor.name for tensor in inspect_checkpoint(tmp_path)] == ["alone"]
    (tmp_path / "model.safetensors").unlink()

    first = index["weight_map"][whole[0]]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {"ghost": first}}))
    with pytest.raises(DataError, match=f"places ghost in {first}, which lacks it"):
        list(inspect_checkpoint(tmp_path))
    (tmp_path / first).unlink()
    with pytest.raises(DataError, match=f"names {first}, which is missing"):
        list(inspect_checkpoint(tmp_path))
    (tmp_path / INDEX).write_text("[]")
    with pytest.raises(DataError, match="is damaged"):
        list(inspect_checkpoint(tmp_path))


def test_pickles_and_damaged_files_are_refused(tmp_path):
    torch.save({"model.layers.0.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="there are no safetensors files"):
        list(inspect_checkpoint(tmp_path))
    save_file({"model.layers.0.weight": torch.zeros(64, 64)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is damaged"):
        list(inspect_checkpoint(tmp_path))


def test_checkpoints_are_folders_before_they_are_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("org/model").mkdir(parents=True)
    assert find_checkpoint("org/model") == Path("org/model")
    assert find_checkpoint("tiny-reasoner") == WEIGHTS
    with pytest.raises(DataError, match="there is no folder a/b/c, and it cannot be fetched from the Hub: "):
        find_checkpoint("a/b/c")  # not an id either, so nothing is asked of the network
