"""What is pushed comes back the same, in a fresh process, by the libraries that everybody uses."""

import copy
import hashlib
import json

import pytest
import torch
from huggingface_hub import HfApi

from optimum_ssgr.hub.push import push_folder
from tests.hub.conftest import MODES


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


@pytest.mark.parametrize("hub", [*MODES, "multipart"], indirect=True)
def test_data_sets(hub, in_fresh_process):
    said = json.loads(in_fresh_process(DATA_SET))
    repo = hub.repo("alice/traces", "datasets")
    assert said == {"oid": repo.history()[1].sha, "pinned": True, "streamed": True, "newest": True}
    assert repo.private


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
