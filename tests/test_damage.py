"""What pruning does to traces is measured, and undone."""

import copy
import json

import pytest
import torch

from optimum_ssgr import CalibrationConfig, PruningConfig, SSGRPruner
from optimum_ssgr.damage import DENSE_NLL_FILE
from optimum_ssgr.errors import ConfigError
from optimum_ssgr.problems.load import load_problems


CONFIG = CalibrationConfig(
    strategy="cover", damage=True, num_sequences=None, num_tokens=600, samples_per_problem=2, max_new_tokens=120
)


@pytest.fixture(scope="module")
def rollouts(reasoner):
    return SSGRPruner(*reasoner).generate_rollouts(load_problems("tiny-reasoner:sum,chain", limit=16), CONFIG)


def naive_nll(model, item):
    ids = torch.tensor([[*item.rollout.prompt_ids, *item.rollout.response_ids]])
    start = len(item.rollout.prompt_ids)
    scores = torch.log_softmax(model(ids).logits[0].double(), -1)
    return -sum(scores[place - 1, ids[0, place]].item() for place in range(start, ids.shape[1]))


@pytest.mark.slow
@torch.no_grad()
def test_damage_is_the_rise_of_the_likelihood_and_the_model_is_dense_again(reasoner, rollouts):
    model, tokenizer = copy.deepcopy(reasoner[0]), reasoner[1]
    pruner = SSGRPruner(model, tokenizer)
    measured, provenance = pruner.measure_damage(rollouts, PruningConfig(sparsity=0.6), CONFIG)
    assert all(torch.equal(after, before) for after, before in zip(model.parameters(), reasoner[0].parameters(), strict=True))
    # the same pruning for good, and the definition
    at_random = CalibrationConfig(**CONFIG.to_dict() | {"strategy": "self", "damage": False, "kind_shares": ()})
    probe = pruner.select_calibration(rollouts, at_random)
    assert provenance["calibration"] == probe.manifest.content_hash
    pruner.prune(probe, PruningConfig(sparsity=0.6))
    assert [item.damage is None for item in measured] == [not item.verdict.correct for item in rollouts]
    for item in measured:
        if item.verdict.correct:
            assert item.damage == pytest.approx(naive_nll(model, item) - naive_nll(reasoner[0], item), rel=1e-3, abs=1e-3)
    assert max(item.damage or 0 for item in measured) > 1


@pytest.mark.slow
def test_the_model_is_dense_again_after_a_failure_and_the_measurement_goes_on(reasoner, rollouts, tmp_path, monkeypatch):
    from optimum_ssgr import damage

    model, tokenizer = copy.deepcopy(reasoner[0]), reasoner[1]
    measure, calls = damage.response_nll, []

    def fail_second(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args, **options)

    monkeypatch.setattr(damage, "response_nll", fail_second)
    pruner = SSGRPruner(model, tokenizer)
    with pytest.raises(KeyboardInterrupt):
        pruner.measure_damage(rollouts, PruningConfig(sparsity=0.6), CONFIG, journal_dir=tmp_path)
    assert all(torch.equal(after, before) for after, before in zip(model.parameters(), reasoner[0].parameters(), strict=True))
    path = tmp_path / "probe" / DENSE_NLL_FILE
    path.write_text(json.dumps([number + 1.0 for number in json.loads(path.read_text())]))  # to see that it is read
    resumed, _ = pruner.measure_damage(rollouts, PruningConfig(sparsity=0.6), CONFIG, journal_dir=tmp_path)
    assert len(calls) == 3
    dense_nll = tmp_path / "of the dense model.json"
    whole, _ = pruner.measure_damage(rollouts, PruningConfig(sparsity=0.6), CONFIG, dense_nll=dense_nll)
    assert [item.damage for item in resumed] == [item.damage and pytest.approx(item.damage - 1) for item in whole]
    assert len(calls) == 5
    assert pruner.measure_damage(rollouts, PruningConfig(sparsity=0.6), CONFIG, dense_nll=dense_nll)[0] == whole
    assert len(calls) == 6  # the dense model is not measured again


def test_a_streamed_model_is_damaged_as_one_in_memory(reasoner, rollouts, tmp_path):
    config = PruningConfig(sparsity=0.6, true_sequential=False)
    expected, _ = SSGRPruner(copy.deepcopy(reasoner[0]), reasoner[1]).measure_damage(rollouts, config, CONFIG)
    pruner = SSGRPruner.from_pretrained("tiny-reasoner", streaming=True)
    room = {"activation_gb": 1e-3}  # for a part of the traces, so that the blocks are read for the others again
    measured, _ = pruner.measure_damage(rollouts, config, CONFIG, journal_dir=tmp_path, **room)
    assert [item.damage for item in measured] == [
        item.damage and pytest.approx(item.damage, rel=1e-3, abs=1e-3) for item in expected
    ]
    assert all(parameter.is_meta for parameter in pruner.model.parameters())
    assert (tmp_path / "probe" / DENSE_NLL_FILE).exists() and not list(tmp_path.glob("dense-*"))


def test_what_cannot_be_measured_is_refused(reasoner, rollouts):
    pruner = SSGRPruner(copy.deepcopy(reasoner[0]), reasoner[1])
    with pytest.raises(ConfigError, match="magnitude"):
        pruner.measure_damage(rollouts, PruningConfig(method="magnitude"), CONFIG)


@pytest.mark.slow
def test_a_set_selected_by_damage_keeps_it_and_can_be_selected_from_again(reasoner, rollouts, tmp_path):
    from optimum_ssgr.calibration.dataset import CalibrationSet
    from optimum_ssgr.calibration.select import reselect

    pruner = SSGRPruner(copy.deepcopy(reasoner[0]), reasoner[1])
    built = pruner.build_calibration(rollouts=rollouts, config=CONFIG, pruning=PruningConfig(sparsity=0.6))
    built.save_to_disk(tmp_path / "set")
    loaded = CalibrationSet.load_from_disk(tmp_path / "set")
    assert loaded.manifest.damage["pruning"]["sparsity"] == 0.6
    again = reselect(loaded, loaded.config)
    assert again.manifest.content_hash == built.manifest.content_hash
    assert again.manifest.damage == built.manifest.damage
