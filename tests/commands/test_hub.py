"""Commands against a Hub on loopback, as a user would give them against the real one."""

import json
import shutil
import sys

import pytest
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file

from ..hub_server import HubServer
from ..hub_server.clients import turn_clients
from ..hub_server.demo import commands
from ..processes import ssgr, started, with_settings


DATA, MODEL = "alice/tiny-reasoner-ssgr", "alice/tiny-reasoner-ssgr-50"

pytestmark = pytest.mark.slow


class Workspace:
    """A folder, a Hub and the environment of a user who is logged in there."""

    def __init__(self, folder, hub, cli):
        self.folder, self.hub, self.cli = folder, hub, cli
        self.outputs = []

    def run(self, call, *arguments):
        """Call a function in a process of its own."""
        environment = self.hub.environment(self.folder / "home") | {"OMP_NUM_THREADS": "1"}
        with started(with_settings, environment, call, *arguments, cwd=self.folder) as running:
            code = running.wait()
            self.outputs += [running.out.read_text(), running.err.read_text()]
        assert code == 0, self.outputs[-1]

    def ssgr(self, *arguments, **environment):
        with pytest.MonkeyPatch.context() as patch:
            turn_clients(patch, self.hub, self.folder / "home")
            patch.setattr(constants, "HF_HUB_OFFLINE", environment.get("HF_HUB_OFFLINE") == "1")
            done = self.cli(*arguments, cwd=self.folder, **environment)
        self.outputs += [done.out, done.err]
        return done


def ask(code, model):
    """Do what `python -c CODE MODEL` does."""
    sys.argv = ["-c", model]
    exec(code, {})


@pytest.fixture(scope="module")
def published(tmp_path_factory, cli):
    """The demo's commands, all of them run; what publishes the checkpoint and what loads it from the Hub in fresh processes."""
    with HubServer() as hub:
        space = Workspace(tmp_path_factory.mktemp("hub"), hub, cli)
        for command in commands(num_problems=24, num_tokens=1500):
            if command[1] == "ssgr" and command[2] != "push":
                done = space.ssgr(*command[2:])
                assert done.code == 0, done.err
            elif command[1] == "ssgr":
                space.run(ssgr, *command[2:])
            else:
                space.run(ask, *command[2:])
        yield space


def test_the_demo_publishes_each_in_one_commit(published):
    hub = published.hub
    for kind, repo_id, pushes in (("datasets", DATA, 1), ("models", MODEL, 2)):
        assert len(hub.repo(repo_id, kind).history()) == 1 + pushes  # the first is the Hub's own; an unchanged push made none
    assert hub.repo(DATA, "datasets").private
    assert "\\boxed{" in published.outputs[-2]  # the answer of the fresh process


def test_the_checkpoint_names_the_commit_of_its_calibration_set(published):
    provenance = json.loads((published.folder / "sparse" / "ssgr_config.json").read_text())
    commit = published.hub.repo(DATA, "datasets").at().sha
    assert provenance["calibration"]["hub"] == {"id": DATA, "commit": commit}
    card = published.hub.read(MODEL, "README.md").decode()
    assert f"https://huggingface.co/datasets/{DATA}/tree/{commit}" in card
    assert f'"{MODEL}"' in card  # in the code that loads it


def test_what_was_measured_is_on_the_card(published):
    results = json.loads((published.folder / "results" / "results.json").read_text())
    dense, sparse = results["rows"]
    assert (dense["model"], sparse["model"]) == ("tiny-reasoner", "sparse")
    pushed = published.hub.read(MODEL, "README.md").decode()
    for card in (pushed, (published.folder / "sparse" / "README.md").read_text()):
        data = ModelCard(card).data
        [result] = data.eval_results
        assert (result.metric_type, result.metric_value) == ("accuracy", sparse["accuracy"])
        spread = {"standard_error": sparse["accuracy_se"]} if sparse["accuracy_se"] else {"ci95": sparse["accuracy_ci95"]}
        assert result.metric_args == spread | {"problems": 24, "samples": 24}
        assert (result.dataset_name, result.dataset_split, data.metrics) == ("tiny-reasoner", "test", ["accuracy"])
        for role, row in (("dense", dense), ("sparse", sparse)):
            solved = f"{100 * row['accuracy']:.1f} % +- {100 * row['accuracy_se']:.1f} %"
            if row["accuracy"] in (0, 1):  # where the error would read as none
                solved = f"{100 * row['accuracy']:.1f} % ({' to '.join(f'{100 * end:.1f} %' for end in row['accuracy_ci95'])})"
            assert f"| `tiny-reasoner` (`test`) | `{role}` | {solved} | 24 x 1 |" in card
    assert "was not evaluated" not in pushed
    # Only the card and its source differ from the commit before.
    before, after = (commit.files for commit in published.hub.repo(MODEL).history()[1::-1])
    assert {path for path in after if after[path] != before.get(path)} == {"README.md", "ssgr_config.json"}


def test_the_hub_holds_the_same_weights(published, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(published.hub.read(MODEL, "model.safetensors"))
    local = load_file(published.folder / "sparse" / "model.safetensors")
    there = load_file(tmp_path / "model.safetensors")
    assert local.keys() == there.keys()
    assert all((local[name] == there[name]).all() for name in local)


def test_what_users_wrote_on_the_hub_survives_and_stale_shards_go(published, tmp_path):
    hub, repo = published.hub, published.hub.repo(MODEL)
    files = dict(repo.at().files)
    edited = hub.read(MODEL, "README.md").decode() + "\nRead this first.\n"
    files["README.md"] = hub.store(edited.encode())
    files["model-00001-of-00002.safetensors"] = hub.store(b"old")
    files["notes.txt"] = hub.store(b"mine")
    repo.add_commit("main", "edit", files)
    done = published.ssgr("push", "sparse", MODEL)
    assert done.code == 0, done.err
    assert "Read this first." in hub.read(MODEL, "README.md").decode()
    assert "model-00001-of-00002.safetensors" not in repo.at().files
    assert "notes.txt" in repo.at().files


def test_a_pinned_revision_is_the_one_that_is_used(published):
    repo = published.hub.repo(DATA, "datasets")
    first = repo.at().sha
    files = {name: blob for name, blob in repo.at().files.items() if not name.startswith("calibration")}
    repo.add_commit("main", "remove the data", files)
    prune = ["prune", "pinned", "-m", "tiny-reasoner", "--method", "wanda", "--sparsity", "0.5", "--dry-run", "--calibration"]
    done = published.ssgr(*prune, f"{DATA}@{first}")
    assert done.code == 0, done.err
    done = published.ssgr(*prune, DATA)
    assert done.code == 1
    assert f"{DATA}@{repo.at().sha} is not a calibration set: train.parquet is missing" in done.err.splitlines()[-1]
    repo.branches["main"] = first


def test_a_changed_data_set_is_refused(published):
    hub, repo = published.hub, published.hub.repo(DATA, "datasets")
    first = repo.at()
    manifest = json.loads(hub.read(DATA, "manifest.json", kind="datasets")) | {"content_hash": "0" * 64}
    repo.add_commit("main", "tamper", dict(first.files) | {"manifest.json": hub.store(json.dumps(manifest).encode())})
    done = published.ssgr("prune", "no", "-m", "tiny-reasoner", "--calibration", DATA)
    assert done.code == 1
    assert "do not match its manifest" in done.err.splitlines()[-1]
    repo.branches["main"] = first.sha


REFUSED = {
    "no token": ({"HF_TOKEN": ""}, "there is no Hugging Face token"),
    "unknown token": ({"HF_TOKEN": "hf_nobody"}, "does not know the token"),
    "token that only reads": ({"HF_TOKEN": HubServer.read_token}, "write access"),
    "somebody else's name": ({"HF_TOKEN": HubServer.stranger}, "may not"),
    "offline": ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_pushed_is_refused_before_the_work(published, name):
    environment, message = REFUSED[name]
    asked = ["-m", "tiny-reasoner", "--problems", "tiny-reasoner", "--max-new-tokens", "400", "--push-to-hub", "alice/new"]
    done = published.ssgr("calibrate", "refused", *asked, **environment)
    assert done.code == 1
    assert message in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert "generate:" not in done.err
    assert not (published.folder / "refused").exists()
    assert ("datasets", "alice/new") not in published.hub.repos


def test_a_pickle_is_not_pushed(published):
    shutil.copytree(published.folder / "sparse", published.folder / "pickled")
    (published.folder / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    done = published.ssgr("push", "pickled", "alice/pickled")
    assert done.code == 1
    assert "pytorch_model.bin may be a pickle" in done.err.splitlines()[-1]
    done = published.ssgr("push", "home", "alice/home")
    assert "is neither a checkpoint" in done.err.splitlines()[-1]


def test_the_token_is_nowhere(published):
    """In nothing that was printed, written or published by all the commands above."""
    hub = published.hub
    secrets = [token.encode() for token in (hub.token, hub.read_token, hub.stranger)]
    written = [path.read_bytes() for path in published.folder.rglob("*") if path.is_file()]
    for content in (*written, *hub.objects.values(), *(text.encode() for text in published.outputs)):
        assert not any(secret in content for secret in secrets)
