"""What a push deletes: what an earlier one of ours left, and nothing that users put into the repository."""

import json

import pytest
from huggingface_hub import HfApi

from optimum_ssgr.hub.publish import publish_folder
from tests.cards.test_render import CARDS


REPO = "alice/mine"
OURS = {
    "model": [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "calibration/manifest.json",
        "calibration/README.md",
        "calibration/histograms.png",
        "calibration/calibration/train.parquet",
        "calibration/rollouts/train.parquet",
    ],
    "dataset": ["calibration/train.parquet", "rollouts/train.parquet", "histograms.png"],
}
THEIRS = {
    "model": [
        "models/lora.safetensors",
        "model_lora.safetensors",
        "model.fp8.safetensors",
        "model-00001-of-00002/part.safetensors",
        "original/model.safetensors",
        "calibration/notes.md",
        "calibration/mine/train.parquet",
        "rollouts/train.parquet",
    ],
    "dataset": ["calibration/notes.md", "calibration/old/train.parquet", "rollouts/dev.parquet", "plots/histograms.png"],
}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_users_put_there_stays_and_what_we_left_goes(hub, tmp_path, kind):
    HfApi().create_repo(REPO, repo_type=kind)
    repo = hub.repo(REPO, f"{kind}s")
    files = {name: hub.store(name.encode()) for name in (*OURS[kind], *THEIRS[kind])}
    repo.add_commit("main", "before", dict(repo.at().files) | files)
    (tmp_path / "new").mkdir()
    known_by = {"model": "ssgr_config.json", "dataset": "manifest.json"}[kind]
    (tmp_path / "new" / known_by).write_text(json.dumps(json.loads((CARDS / kind / known_by).read_text())))
    publish_folder(tmp_path / "new", REPO, lambda old, commit: "card")
    assert set(THEIRS[kind]) <= repo.at().files.keys()
    assert not set(OURS[kind]) & repo.at().files.keys()
