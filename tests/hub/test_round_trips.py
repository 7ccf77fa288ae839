"""What is pushed comes back the same, in a fresh process, by the libraries that everybody uses."""

import copy
import hashlib
import json

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from optimum_ssgr.cards.evaluation import evaluation_rows
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.errors import DataError
from optimum_ssgr.hub.push import push_folder
from optimum_ssgr.pruner import SSGRPruner
from tests.cards.test_evaluation import measured, write_results
from tests.hub.conftest import MODES
from tests.hub.test_pull import calibration_set
from tests.models import random_model


DATA_SET = """
import json
from datasets import Dataset, load_dataset

rows = {"input_ids": [[n, n + 1, n + 2] * 50 for n in range(200)], "text": [f"trace {n}" for n in range(200)]}
data = Dataset.from_dict(rows)
first = data.push_to_hub("alice/traces", private=True, max_shard_size="20KB")
data.select(range(10)).push_to_hub("alice/traces")

pinned = load_dataset("alice/traces", split="train", revision=first.oid)
streamed = load_dataset("alice/traces", split="train", revision=first.oid, streaming=True)
print(json.dumps({
    "oid": first.oid,
    "pinned": pinned.to_dict() == rows,
    "streamed": list(streamed) == data.to_list(),
    "newest": load_dataset("alice/traces", split="train").to_dict() == data[:10],
}))

made = {name: load_dataset("alice/set", name, split="train", revision=OID) for name in ("calibration", "rollouts")}
for name, rows in made.items():
    assert list(load_dataset("alice/set", name, split="train", revision=OID, streaming=True)) == rows.to_list()
assert load_dataset("alice/set", split="train").num_rows == 2  # the default configuration, of a later commit
print(json.dumps({name: rows.to_list() for name, rows in made.items()}))
"""

CHECKPOINT = """
import hashlib, json
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("alice/sparse", revision="{oid}")
tokenizer = AutoTokenizer.from_pretrained("alice/sparse", revision="{oid}")
weights = {{name: hashlib.sha256(weight.numpy().tobytes()).hexdigest() for name, weight in model.state_dict().items()}}
zeros = sum(int((weight == 0).sum()) for weight in model.state_dict().values())
print(json.dumps({{"weights": weights, "zeros": zeros, "ids": tokenizer("1 2").input_ids}}))
"""

SEQUENCES = [list(range(50)), list(range(100, 160))]
STREAMED = """
import json
from datasets import Dataset
from optimum_ssgr.config import PruningConfig
from optimum_ssgr.pruner import SSGRPruner

pruner = SSGRPruner.from_pretrained("alice/dense", revision="{oid}", streaming=True)
data, config = Dataset.from_dict({{"input_ids": {sequences}}}), PruningConfig(true_sequential=True)
pruner.prune(data, config, journal_dir="{folder}/journal")
pruner.save_pretrained("{folder}/sparse")
print(json.load(open("{folder}/sparse/ssgr_config.json"))["base_commit"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("hub", [*MODES, "multipart"], indirect=True)
def test_data_sets(hub, in_fresh_process):
    """Those that datasets itself pushes, and calibration sets, whose card names their tables."""
    made = calibration_set()
    first = made.push_to_hub("alice/set").oid
    calibration_set(2).push_to_hub("alice/set")
    datasets_own, ours = in_fresh_process(f"OID = {first!r}\n{DATA_SET}").splitlines()
    said = json.loads(datasets_own)
    assert json.loads(ours) == {"calibration": made.dataset.to_list(), "rollouts": made.rollouts.to_list()}
    repo = hub.repo("alice/traces", "datasets")
    assert said == {"oid": repo.history()[1].sha, "pinned": True, "streamed": True, "newest": True}
    assert repo.private


@pytest.mark.slow
@pytest.mark.parametrize("hub", MODES, indirect=True)
def test_sharded_sparse_checkpoints(hub, in_fresh_process, reasoner, tmp_path):
    model, tokenizer = copy.deepcopy(reasoner[0]), reasoner[1]
    masks = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                masks[name] = weight.abs() > weight.abs().median()
                weight.mul_(masks[name])
    model.save_pretrained(tmp_path / "sparse", max_shard_size="2MB")
    tokenizer.save_pretrained(tmp_path / "sparse")
    commit = push_folder(tmp_path / "sparse", "alice/sparse")
    assert sum(path.endswith(".safetensors") for path in HfApi().list_repo_files("alice/sparse")) > 1

    loaded = json.loads(in_fresh_process(CHECKPOINT.format(oid=commit.oid)))
    weights = model.state_dict()
    assert loaded["weights"] == {name: hashlib.sha256(w.numpy().tobytes()).hexdigest() for name, w in weights.items()}
    assert loaded["zeros"] >= sum(int((~mask).sum()) for mask in masks.values()) > 0
    assert loaded["ids"] == tokenizer("1 2").input_ids


def test_what_was_evaluated_on_the_hub_belongs_to_the_same_weights_here(hub, folder, tmp_path):
    (folder / "ssgr_config.json").write_text('{"base_model": "dense"}')
    commit = push_folder(folder, "alice/sparse").oid
    known = {"alice/sparse": {"commit": commit, "weights": None}}
    results = write_results(tmp_path / "results", known, measured("alice/sparse"))
    assert [row.model for row in evaluation_rows(results, folder)] == ["sparse"]
    (folder / "model-1.safetensors").write_bytes(b"others")
    with pytest.raises(DataError, match="an evaluation of alice/sparse with other weights"):
        evaluation_rows(results, folder)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["50KB", "1GB"])
def test_models_stream_from_the_hub(hub, in_fresh_process, reasoner, tmp_path, shard):
    """Only the weights that transformers would load are fetched, at the commit that was asked for."""
    dense = random_model("qwen3")
    dense.save_pretrained(tmp_path / "dense", max_shard_size=shard)
    reasoner[1].save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "optimizer.safetensors").write_bytes(b"\0" * 4096)
    commit = push_folder(tmp_path / "dense", "alice/dense")
    random_model("qwen3", seed=1).save_pretrained(tmp_path / "later")
    push_folder(tmp_path / "later", "alice/dense")

    pruner = SSGRPruner.from_pretrained(str(tmp_path / "dense"))
    pruner.prune(Dataset.from_dict({"input_ids": SEQUENCES}), PruningConfig(true_sequential=True))
    oids = in_fresh_process(STREAMED.format(oid=commit.oid, sequences=SEQUENCES, folder=str(tmp_path)))
    assert oids.split() == [commit.oid]
    streamed = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse").state_dict()
    assert all(torch.equal(tensor, streamed[name]) for name, tensor in pruner.model.state_dict().items())
    assert not any("optimizer.safetensors" in call.path for call in hub.named("resolve"))
