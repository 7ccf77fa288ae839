import copy

import pytest
import torch

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ConfigError
from optimum_ssgr.pruning import capture
from optimum_ssgr.pruning.activations import ActivationStore
from optimum_ssgr.pruning.allocation import outlier_ratio, owl_sparsities
from optimum_ssgr.pruning.capture import MicroBatch
from optimum_ssgr.pruning.layerwise import prune_layerwise
from optimum_ssgr.pruning.statistics import InputStatistics

from ..models import random_model
from .naive import naive_outlier_ratio, naive_owl
from .test_layerwise import random_sequences


def test_outliers_are_counted_against_the_mean_of_their_block():
    weight = torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -20.0]])
    assert outlier_ratio([(weight, torch.ones(8))]) == 1 / 16
    assert outlier_ratio([(weight, torch.tensor([1.0] * 7 + [0.0]))]) == 0
    # One mean for both: the 20 is no outlier beside a matrix of hundreds, and a whole matrix of twenties among ones is one.
    assert outlier_ratio([(weight, torch.ones(8)), (100 * torch.ones(4, 4), torch.ones(4))]) == 0
    assert outlier_ratio([(torch.ones(8, 8), torch.ones(8)), (20 * torch.ones(2, 4), torch.ones(4))]) == 8 / 72


def test_outliers_by_the_definition():
    """Matrices of different widths and sizes, inputs of different scale, a float64 reference."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(12, 16), (4, 16), (16, 24)]
    weights = [torch.randn(shape, generator=rng) * scale for shape, scale in zip(shapes, (1, 3, 0.2), strict=True)]
    inputs = [torch.randn((40, shape[1]), generator=rng) * torch.rand(shape[1], generator=rng) ** 4 for shape in shapes]
    found = outlier_ratio([(weight, of.pow(2).sum(0).sqrt()) for weight, of in zip(weights, inputs, strict=True)])
    assert found == naive_outlier_ratio(weights, inputs) > 0
    each = [naive_outlier_ratio([weight], [of]) * weight.numel() for weight, of in zip(weights, inputs, strict=True)]
    assert found != sum(each) / sum(weight.numel() for weight in weights)  # of one mean per matrix


def test_norms_are_those_of_all_tokens():
    """However many tokens a matrix sees, as those of experts differ, and with importances."""
    inputs, importance = torch.randn(7, 5), torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 0.25, 3.0])
    for weights, factor in ((None, torch.ones(7)), (importance, importance)):
        for full in (False, True):
            seen = InputStatistics(5, full, torch.device("cpu"))
            seen.add(inputs, weights)
            seen.finish()
            assert torch.allclose(seen.norms, (factor[:, None] * inputs.square()).sum(0).sqrt(), rtol=1e-5)
    unseen = InputStatistics(5, False, torch.device("cpu"))
    unseen.finish()
    assert not unseen.norms.any()


@pytest.mark.parametrize("sizes", [[1000, 1000, 1000, 1000], [1000, 16000, 2000, 1000]])
def test_more_outliers_keep_more_and_the_target_is_met(sizes):
    ratios = [0.01, 0.02, 0.09, 0.02]
    sparsities = owl_sparsities(ratios, sizes, 0.7)
    assert sparsities == pytest.approx(naive_owl(ratios, sizes, 0.7))
    zeros = sum(sparsity * size for sparsity, size in zip(sparsities, sizes, strict=True))
    assert zeros / sum(sizes) == pytest.approx(0.7)
    assert max(sparsities) - min(sparsities) == pytest.approx(0.16)
    assert sparsities[1] == sparsities[3]


def test_allocation_of_blocks_of_one_size():
    assert owl_sparsities([0.01, 0.05, 0.03], [7, 7, 7], 0.5) == pytest.approx([0.58, 0.42, 0.5])
    assert owl_sparsities([0.2, 0.2], [7, 9], 0.6) == [0.6, 0.6]


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_blocks_of_different_sizes_meet_the_target_together(method):
    """The wide block has the most outliers and keeps the most; all of the model is as sparse as it should be."""
    model = random_model("llama")
    config = model.config
    wide = copy.deepcopy(config)
    wide.intermediate_size = 8 * config.intermediate_size
    torch.manual_seed(0)
    model.model.layers[1].mlp = type(model.model.layers[1].mlp)(wide)
    model.model.layers[1].mlp.up_proj.weight.data[::8] *= 40
    reports = prune_layerwise(model, random_sequences(), PruningConfig(method=method, sparsity=0.5, allocation="owl"))
    by_block = [[report for report in reports if f"layers.{index}." in report.name] for index in (0, 1)]
    zeros, weights = ([sum(getattr(r, name) for r in block) for block in by_block] for name in ("zeros", "weights"))
    assert weights[1] > 3 * weights[0]
    assert zeros[0] / weights[0] - zeros[1] / weights[1] == pytest.approx(0.16, abs=0.02)
    assert sum(zeros) / sum(weights) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("sparsity", [0.02, 0.97])
def test_target_at_the_edge_is_refused(sparsity):
    with pytest.raises(ConfigError, match="leaves the range from 0 to 1"):
        owl_sparsities([0.01, 0.05], [1, 1], sparsity)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_every_method_takes_the_blocks_sparsities(method):
    model = random_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[::8] *= 40
    reports = prune_layerwise(model, random_sequences(), PruningConfig(method=method, sparsity=0.5, allocation="owl"))
    by_block = [[report for report in reports if f"layers.{index}." in report.name] for index in (0, 1)]
    sparsities = [sum(r.zeros for r in block) / sum(r.weights for r in block) for block in by_block]
    assert sparsities == pytest.approx([0.58, 0.42], abs=0.02)


def test_outliers_are_counted_with_one_micro_batch_at_a_time(monkeypatch):
    """As a streamed model needs it: no micro-batch waits inside the dense block for the others."""
    monkeypatch.setattr(capture, "BATCH_TOKENS", 16)
    under_way, most = [], []
    run = MicroBatch.run

    def counted_run(self, *args):
        under_way.append(self)
        most.append(len(under_way))
        try:
            return run(self, *args)
        finally:
            under_way.remove(self)

    monkeypatch.setattr(MicroBatch, "run", counted_run)
    config = PruningConfig(method="wanda", sparsity=0.5, allocation="owl", true_sequential=False)
    prune_layerwise(random_model("llama"), random_sequences(), config)
    assert max(most) == 1
    assert len(most) > 6


def test_spilled_activations_begin_anew_after_the_outliers_are_counted(tmp_path):
    """Those of the dense pass are gone, so their room in memory and their files are free again."""
    store = ActivationStore(tmp_path, 8000)
    config = PruningConfig(method="wanda", sparsity=0.5, allocation="owl", true_sequential=False)
    reports = prune_layerwise(random_model("llama"), random_sequences(), config, store=store)
    once = ActivationStore(tmp_path / "once", 8000)
    once.folder.mkdir()
    uniform = PruningConfig(method="wanda", sparsity=0.5, true_sequential=False)
    assert len(prune_layerwise(random_model("llama"), random_sequences(), uniform, store=once)) == len(reports)
    assert (store.bytes, store.files) == (once.bytes, once.files)


def test_patterns_fix_the_sparsity():
    with pytest.raises(ConfigError, match="allocation owl varies the sparsity"):
        PruningConfig(pattern="2:4", allocation="owl")
