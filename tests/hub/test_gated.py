"""What a pruned model inherits from one that not everybody may read."""

import copy
import json
import pickle
import shutil
import traceback

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save

from optimum_ssgr import PruningConfig, SSGRPruner
from optimum_ssgr.cards.metadata import inherited_metadata
from optimum_ssgr.errors import ModelError
from optimum_ssgr.reasoner import WEIGHTS
from tests.hub_server import HubServer


GATED = "alice/gated"
CARD = b"---\nlicense: llama3.1\nlicense_link: https://a.b\nlanguage: [en, de]\n---\n# Gated\n"
STATED = {"license": "llama3.1", "license_link": "https://a.b", "language": ["en", "de"]}


def written_with(token, folder):
    return [path for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


@pytest.fixture
def gated(hub, monkeypatch):
    """A gated model; the token that may read it is in the caller's hand alone."""
    monkeypatch.delenv("HF_TOKEN")
    HfApi(token=hub.token).create_repo(GATED)
    repo = hub.repo(GATED)
    files = {path.name: hub.store(path.read_bytes()) for path in WEIGHTS.iterdir()} | {"README.md": hub.store(CARD)}
    repo.add_commit("main", "gated", files)
    repo.gated = True
    return repo


@pytest.mark.parametrize("streaming", [False, True])
def test_a_gated_models_licence_is_read_with_the_token_that_loaded_it(hub, gated, tmp_path, streaming):
    commit = gated.at().sha
    pruner = SSGRPruner.from_pretrained(GATED, token=hub.token, streaming=streaming)
    assert pruner.model.config._commit_hash == commit
    pruner.prune(None, PruningConfig(method="magnitude", sparsity=0.5), journal_dir=tmp_path / "journal")
    hub.repo(GATED).add_commit("main", "later", dict(gated.at().files) | {"README.md": hub.store(b"# Another")})
    shutil.rmtree(tmp_path / "hf_home")  # nothing can be read off the cache later on
    assert hub.token.encode() not in pickle.dumps(vars(pruner) | {"model": None, "tokenizer": None, "streamed": None})
    assert (tmp_path / "journal" / "fingerprint.json").exists()
    assert not written_with(hub.token, tmp_path)
    if streaming:  # what is not in the blocks is read off the checkpoint when it is saved
        return
    pruner.save_pretrained(tmp_path / "sparse")
    assert not written_with(hub.token, tmp_path)
    provenance = json.loads((tmp_path / "sparse" / "ssgr_config.json").read_text())
    assert (provenance["inherited"], provenance["base_commit"]) == (STATED, commit)
    data = ModelCard((tmp_path / "sparse" / "README.md").read_text()).data
    assert (data.license, data.base_model, data.base_model_relation) == ("llama3.1", GATED, "finetune")


@pytest.mark.parametrize("streaming", [False, True])
def test_all_of_a_gated_model_is_carried_over_with_the_token_that_loaded_it(hub, gated, tmp_path, streaming):
    weights = load_file(WEIGHTS / "model.safetensors") | {"mtp.fc.weight": torch.randn(4, 4)}
    beside = {"LICENSE": b"Ask first.", "preprocessor_config.json": b"{}", "additional_chat_templates/tool.jinja": b"{{ a }}"}
    beside |= {"assets/a plot [1].png": b"PNG"}
    left_out = {
        "optimizer.pt": b"cos",
        "original/x.pth": b"",
        "original/params.json": b"{}",
        "code.py": b"1 / 0",
        ".gitattributes": b"* text",
    }
    files = beside | left_out | {"model.safetensors": save(weights, {"format": "pt"})}
    stored = dict(gated.at().files) | {name: hub.store(content) for name, content in files.items()}
    gated.add_commit("main", "all of it", stored)
    pruner = SSGRPruner.from_pretrained(GATED, token=hub.token, streaming=streaming)
    gated.add_commit("main", "nothing any more", {"README.md": hub.store(CARD)})
    pruner.prune(None, PruningConfig(method="magnitude", sparsity=0.5), journal_dir=tmp_path / "journal")
    pruner.save_pretrained(tmp_path / "sparse")
    saved = {key: tensor for path in (tmp_path / "sparse").glob("*.safetensors") for key, tensor in load_file(path).items()}
    assert saved.keys() == weights.keys()
    assert torch.equal(saved["mtp.fc.weight"], weights["mtp.fc.weight"])
    for name, content in beside.items():
        assert (tmp_path / "sparse" / name).read_bytes() == content
    assert not any((tmp_path / "sparse" / name).exists() for name in left_out)
    assert not [*tmp_path.rglob("optimizer.pt"), *tmp_path.rglob("code.py")]  # they were not even fetched


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("token", [None, HubServer.stranger])
def test_without_access_the_model_is_refused_in_a_sentence(hub, gated, tmp_path, token, streaming):
    with pytest.raises(ModelError, match="alice/gated is gated; ask for access on its page") as raised:
        SSGRPruner.from_pretrained(GATED, token=token, streaming=streaming)
    if token:
        shown = "".join(traceback.format_exception(raised.value)).encode()
        assert token.encode() not in shown + pickle.dumps(raised.value)
        assert not written_with(token, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        None,
        {"status": 401},
        {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}},
        {"status": 404},
        {"status": 500},
        {"status": 503},
        {"cut": "before"},
        {"cut": "reply"},
    ],
    ids=str,
)
def test_a_licence_that_cannot_be_read_is_not_stated(hub, gated, fault):
    if fault:
        hub.fault("resolve", times=100, **fault)
    assert inherited_metadata(GATED, gated.at().sha, token=hub.token if fault else None) == {}


def test_a_model_given_without_a_token_still_states_what_can_be_read(hub, gated, reasoner, tmp_path, monkeypatch):
    """A pruner around a loaded model reads the card when it saves, with the token of the environment."""
    model = copy.deepcopy(reasoner[0])
    model.config._name_or_path, model.config._commit_hash = GATED, gated.at().sha
    pruner = SSGRPruner(model, reasoner[1])
    pruner.prune(None, PruningConfig(method="magnitude", sparsity=0.5))
    pruner.save_pretrained(tmp_path / "unknown")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    pruner.save_pretrained(tmp_path / "known")
    cards = {name: (tmp_path / name / "README.md").read_text() for name in ("unknown", "known")}
    assert "No licence is stated here; the dense model's applies." in cards["unknown"]
    assert "license: llama3.1" in cards["known"]
