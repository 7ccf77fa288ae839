"""What came from the Hub is named by its commit: in the checkpoint, on its card, in the commands that make it again."""

import json

import pytest
from huggingface_hub import HfApi, ModelCard, constants

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.checkpoints.load import load_skeleton
from optimum_ssgr.reasoner import WEIGHTS
from tests.hub.test_remote_code import ASKED, ssgr


BASE, SPARSE = "alice/base", "alice/sparse"


@pytest.fixture
def base(hub):
    """The embedded reasoner on the Hub, with a tag, and a commit after it."""
    HfApi().create_repo(BASE)
    files = {path.name: hub.store(path.read_bytes()) for path in WEIGHTS.iterdir()}
    tagged = hub.repo(BASE).add_commit("main", "weights", files)
    HfApi().create_tag(BASE, tag="v1", revision=tagged.sha)
    hub.repo(BASE).add_commit("main", "more", files | {"NOTES.md": hub.store(b"more")})
    return tagged.sha


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [[], ["--streaming"]], ids=["resident", "streaming"])
def test_from_a_tag_on_the_hub_to_a_card_with_results(hub, base, tmp_path, monkeypatch, capsys, streaming):
    prune = ["prune", "sparse", "-m", f"{BASE}@v1", "--method", "magnitude", "--push-to-hub", SPARSE, *streaming]
    assert ssgr(monkeypatch, tmp_path, *prune) == 0
    provenance = json.loads(hub.read(SPARSE, "ssgr_config.json"))
    assert (provenance["base_model"], provenance["base_commit"]) == (BASE, base)
    card = hub.read(SPARSE, "README.md").decode()
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation, data.license, data.eval_results) == (
        BASE,
        "finetune",
        "apache-2.0",
        None,
    )
    assert f"https://huggingface.co/{BASE}/tree/{base}" in card
    assert f"-m {BASE}@{base} \\\n" in card

    if streaming:
        return
    # The baseline of another commit says nothing of the model that was pruned; the sparse one is told by its weights.
    for name, baseline, roles in (("moved", BASE, ["sparse"]), ("same", f"{BASE}@v1", ["dense", "sparse"])):
        models = [*ASKED, "-m", str(tmp_path / "sparse"), "--baseline", baseline, "--output", name]
        assert ssgr(monkeypatch, tmp_path, "evaluate", *models) == 0
        assert ssgr(monkeypatch, tmp_path, "push", "sparse", SPARSE, "--evaluation", name, "--dry-run") == 0
        assert f"evaluation   {' and '.join(roles)}, from {name}" in capsys.readouterr().out
        assert "was not evaluated" in (tmp_path / "sparse" / "README.md").read_text()
    assert ssgr(monkeypatch, tmp_path, "push", "sparse", SPARSE, "--evaluation", "same") == 0
    assert [result.metric_type for result in ModelCard(hub.read(SPARSE, "README.md").decode()).data.eval_results] == [
        "accuracy"
    ]


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"cut": "before"}, {"stall": "after"}], ids=str)
def test_the_commit_is_asked_for_again_after_trouble_that_passes(hub, base, fault):
    injected = hub.fault("repo_info", **fault)
    assert load_skeleton(BASE, revision="v1").config._commit_hash == base
    assert injected.times == 0


def test_without_the_hub_the_commit_is_that_in_the_cache(hub, base, monkeypatch):
    load_skeleton(BASE, revision="v1")
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        hub.fault("repo_info", times=1000, status=503)
        assert load_skeleton(BASE, revision="v1").config._commit_hash == base


@pytest.mark.slow
def test_results_of_what_is_on_the_hub(hub, base, tmp_path, monkeypatch, capsys):
    """Evaluated from the Hub, they belong to the folder that was pushed there, and to no other."""
    for folder, sparsity in (("half", "0.5"), ("third", "0.33")):
        assert ssgr(monkeypatch, tmp_path, "prune", folder, "-m", BASE, "--method", "magnitude", "--sparsity", sparsity) == 0
    assert ssgr(monkeypatch, tmp_path, "push", "half", SPARSE) == 0
    assert ssgr(monkeypatch, tmp_path, "evaluate", *ASKED, "-m", SPARSE, "--output", "results") == 0
    pushed = hub.repo(SPARSE).at().sha
    assert json.loads((tmp_path / "results" / "results.json").read_text())["models"] == {
        SPARSE: {"commit": pushed, "weights": None}
    }
    assert ssgr(monkeypatch, tmp_path, "push", "third", "alice/third", "--evaluation", "results") == 1
    assert f"an evaluation of {SPARSE} with other weights than those in third; evaluate third." in capsys.readouterr().err
    assert ("models", "alice/third") not in hub.repos
    assert ssgr(monkeypatch, tmp_path, "push", "half", SPARSE, "--evaluation", "results") == 0
    assert ModelCard(hub.read(SPARSE, "README.md").decode()).data.metrics == ["accuracy"]


@pytest.mark.slow
def test_a_set_that_prune_made_is_kept_and_pushed_with_the_checkpoint(hub, tmp_path, monkeypatch):
    asked = ["--problems", "tiny-reasoner", "--num-problems", "4", "--samples-per-problem", "2", "--max-new-tokens", "200"]
    prune = ["prune", "sparse", "-m", "tiny-reasoner", *asked, "--strategy", "rac", "--num-sequences", "4", "--method", "wanda"]
    assert ssgr(monkeypatch, tmp_path, *prune, "--push-to-hub", SPARSE) == 0
    assert not (tmp_path / "sparse.journal").exists()
    provenance = json.loads((tmp_path / "sparse" / "ssgr_config.json").read_text())
    kept = CalibrationSet.load(tmp_path / "sparse" / provenance["calibration_folder"])
    assert kept.manifest.content_hash == provenance["calibration"]["content_hash"]
    assert len(kept.rollouts) == 8
    for path in (tmp_path / "sparse" / "calibration").rglob("*"):
        if path.is_file():
            assert hub.read(SPARSE, path.relative_to(tmp_path / "sparse").as_posix()) == path.read_bytes()
    assert "in the folder `calibration` beside the weights" in hub.read(SPARSE, "README.md").decode()
    # It prunes to the same weights, and a checkpoint that is pushed there later without one takes the old one away.
    again = ["prune", "again", "-m", "tiny-reasoner", "--calibration", "sparse/calibration", "--method", "wanda"]
    assert ssgr(monkeypatch, tmp_path, *again, "--push-to-hub", SPARSE) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("sparse", "again")]
    assert weights[0] == weights[1]
    assert not [path for path in hub.repo(SPARSE).at().files if path.startswith("calibration/")]
