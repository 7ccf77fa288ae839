import pytest
import torch

from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import ConfigError
from optimum_ssgr.pruning import capture
from optimum_ssgr.pruning.activations import ActivationStore
from optimum_ssgr.pruning.allocation import outlier_ratio, owl_sparsities
from optimum_ssgr.pruning.capture import MicroBatch
from optimum_ssgr.pruning.layerwise import prune_layerwise

from ..models import random_model
from .test_layerwise import random_sequences


def test_outliers_are_counted_against_the_mean_of_their_matrix():
    weight = torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -20.0]])
    assert outlier_ratio([(weight, torch.ones(8))]) == 1 / 16
    assert outlier_ratio([(weight, torch.tensor([1.0] * 7 + [0.0]))]) == 0
    assert outlier_ratio([(weight, torch.ones(8)), (100 * torch.ones(4, 4), torch.ones(4))]) == 1 / 32


def test_more_outliers_keep_more_and_the_mean_is_the_target():
    sparsities = owl_sparsities([0.01, 0.05, 0.03], 0.5)
    assert sparsities == pytest.approx([0.58, 0.42, 0.5])
    uneven = owl_sparsities([0.01, 0.02, 0.09, 0.02], 0.7)
    assert sum(uneven) / 4 == pytest.approx(0.7)
    assert max(uneven) - min(uneven) == pytest.approx(0.16)
    assert uneven[1] == uneven[3]
    assert owl_sparsities([0.2, 0.2], 0.6) == [0.6, 0.6]


@pytest.mark.parametrize("sparsity", [0.02, 0.97])
def test_target_at_the_edge_is_refused(sparsity):
    with pytest.raises(ConfigError, match="leaves the range from 0 to 1"):
        owl_sparsities([0.01, 0.05], sparsity)


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
