import pytest
import torch
from safetensors.torch import save_file

from optimum_ssgr.checkpoints.inspect import find_pattern, inspect_checkpoint, is_block_matrix
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.pruning.layerwise import prune_layerwise

from ..models import random_model


def keep(matrix, n, m):
    order = matrix.abs().unflatten(1, (-1, m)).argsort(dim=-1)
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., : m - n], True).flatten(1)
    return matrix.masked_fill(mask, 0)


@pytest.mark.parametrize("n, m", [(1, 4), (2, 4), (4, 8), (8, 16)])
def test_patterns_are_recognised(n, m):
    matrix = keep(torch.randn(16, 64, generator=torch.Generator().manual_seed(0)), n, m)
    assert find_pattern(matrix) == f"{n}:{m}"
    matrix[3, :m] = 1  # one group too full
    assert find_pattern(matrix) != f"{n}:{m}"


def test_dense_and_unstructured_have_no_pattern():
    matrix = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert find_pattern(matrix) is None
    assert find_pattern(matrix * (matrix.abs() > 0.7)) is None


def test_counts_equal_the_models(tmp_path):
    model = random_model("llama tied")
    reports = prune_layerwise(model, [], PruningConfig(method="magnitude", pattern="2:4"))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = {tensor.name: tensor for tensor in inspect_checkpoint(tmp_path)}
    assert sum(tensor.weights for tensor in found.values()) == model.num_parameters()
    matrices = {name for name, tensor in found.items() if is_block_matrix(tensor)}
    assert matrices == {f"{report.name}.weight" for report in reports}
    for report in reports:
        tensor = found[f"{report.name}.weight"]
        assert (tensor.shape, tensor.zeros, tensor.pattern) == (report.shape, report.zeros, "2:4")


def test_pickles_and_damaged_files_are_refused(tmp_path):
    torch.save({"model.layers.0.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="there are no safetensors files"):
        list(inspect_checkpoint(tmp_path))
    save_file({"model.layers.0.weight": torch.zeros(64, 64)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is damaged"):
        list(inspect_checkpoint(tmp_path))
