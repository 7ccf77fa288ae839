"""Repositories, checkpoints and folders whose names lead elsewhere: nothing outside of them is read, written or published."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from safetensors import safe_open

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.checkpoints.inspect import INDEX, find_checkpoint, inspect_checkpoint
from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.checkpoints.streaming import load_streamed
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError, SSGRError
from optimum_ssgr.hub.publish import repo_type_of
from optimum_ssgr.hub.push import push_folder
from optimum_ssgr.reasoner import WEIGHTS
from tests.calibration.test_dataset import make


REPO = "alice/trap"
PREFIXES = ["../../../../", "calibration/../../../../../", "/", "..\\..\\", "C:\\"]
PAYLOAD = b"written by a stranger"


@pytest.fixture
def trap(hub, tmp_path):
    """Makes a repository that lists and serves any names; git, and so the real Hub, would refuse most of them."""

    def make_repo(kind, files):
        HfApi().create_repo(REPO, repo_type=kind[:-1])
        hub.repo(REPO, kind).add_commit("main", "trap", {name: hub.store(data) for name, data in files.items()})

    yield make_repo
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and PAYLOAD in path.read_bytes()]


def test_of_a_data_set_only_its_own_files_are_fetched(hub, trap, tmp_path):
    """Whatever else the repository lists, its manifest names, or its card calls its data."""
    built = make(CalibrationConfig(num_sequences=4))
    built.save_to_disk(tmp_path / "set")
    files = {
        path.relative_to(tmp_path / "set").as_posix(): path.read_bytes()
        for path in (tmp_path / "set").rglob("*")
        if path.is_file()
    }
    files["README.md"] = b"---\nconfigs:\n- config_name: calibration\n  data_files: /etc/passwd\n---\n"
    manifest = built.manifest.to_dict() | {"data_files": "/etc/passwd", "model": "/etc/passwd"}
    files["manifest.json"] = json.dumps(manifest).encode()
    trap("datasets", files | {f"{prefix}{name}": PAYLOAD for prefix in PREFIXES for name in ("train.parquet", "manifest.json")})
    assert CalibrationSet.from_hub(REPO).sequences == built.sequences
    fetched = {call.path.split("/resolve/")[1].partition("/")[2] for call in hub.named("resolve")}
    assert fetched == {"manifest.json", "calibration/train.parquet", "rollouts/train.parquet"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_model_that_lists_names_elsewhere_is_not_fetched(hub, trap, prefix):
    trap("models", {"config.json": b"{}", f"{prefix}model.safetensors": PAYLOAD, f"{prefix}x.safetensors": PAYLOAD})
    with pytest.raises(DataError, match="there are no safetensors files"):
        inspect(REPO)
    assert {call.path.split("/resolve/")[1].partition("/")[2] for call in hub.named("resolve")} == {"config.json"}


@pytest.fixture(params=["relative", "absolute", "nested", "backslash", "pickle"])
def checkpoint(request, tmp_path):
    """A checkpoint whose index finds its weights in a folder beside it, where they are somebody's own, or in a pickle."""
    folder, private = tmp_path / "checkpoint", tmp_path / "outside" / "private.safetensors"
    shutil.copytree(WEIGHTS, folder)
    private.parent.mkdir()
    (folder / "model.safetensors").rename(private)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    shutil.copy(private, folder / "..\\outside\\private.safetensors")
    file = {
        "relative": "../outside/private.safetensors",
        "absolute": str(private),
        "nested": "x/../../outside/private.safetensors",
        "backslash": "..\\outside\\private.safetensors",
        "pickle": "pytorch_model.bin",
    }[request.param]
    with safe_open(private, framework="pt") as tensors:
        weight_map = dict.fromkeys(tensors.keys(), file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def inspect(source):
    return list(inspect_checkpoint(find_checkpoint(source)))


@pytest.mark.parametrize("load", [load_model, load_streamed, inspect])
@pytest.mark.parametrize("on_hub", [False, True], ids=["folder", "hub"])
def test_weights_outside_of_a_checkpoint_are_not_read(hub, checkpoint, load, on_hub):
    if on_hub:
        HfApi().create_repo(REPO)
        paths = (path for path in checkpoint.iterdir() if "\\" not in path.name)
        hub.repo(REPO).add_commit("main", "trap", {path.name: hub.store(path.read_bytes()) for path in paths})
    with pytest.raises(SSGRError, match="which is not a safetensors file in its folder; do not use this checkpoint") as raised:
        load(REPO if on_hub else str(checkpoint))
    assert "\n" not in str(raised.value)


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("load", [load_model, load_streamed, inspect])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_not_loaded_whatever_it_is_called(tmp_path, load, name):
    folder = tmp_path / "checkpoint"
    shutil.copytree(WEIGHTS, folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(SSGRError, match=r"safetensors|header") as raised:
        load(str(folder))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "marker").exists()
    pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "marker").exists()  # or the test would show nothing


@pytest.mark.parametrize("link", ["notes.txt", "README.md", "plots/deep.png", "ssgr_config.json", "everything"])
def test_links_that_lead_out_of_a_folder_are_not_pushed(hub, folder, tmp_path, link):
    secret = tmp_path / "secrets" / "id_rsa"
    secret.parent.mkdir()
    secret.write_text("private")
    (folder / "ssgr_config.json").write_text("{}")
    (folder / link).unlink(missing_ok=True)
    (folder / link).symlink_to("../secrets" if link == "everything" else secret)
    for refused in (lambda: push_folder(folder, REPO), lambda: repo_type_of(folder)):
        with pytest.raises(DataError, match=f"{link} is a link that leads out of"):
            refused()
    assert not hub.repos


def test_links_within_a_folder_are_pushed_as_files(hub, folder, tmp_path):
    (folder / "again.json").symlink_to("config.json")
    (tmp_path / "there").symlink_to(folder)
    push_folder(tmp_path / "there", REPO)
    assert hub.read(REPO, "again.json") == (folder / "config.json").read_bytes()


READ = """
from optimum_ssgr.problems.documents import load_documents
from optimum_ssgr.errors import DataError
from optimum_ssgr.problems.load import load_problems
for name in NAMES:
    for load, options in ((load_problems, {}), (load_documents, {"num_characters": 10, "column": "question"})):
        try:
            print(load(name, **options))
        except DataError as error:
            print(error)
"""


@pytest.mark.slow
def test_problems_and_text_elsewhere_and_scripts_are_refused(hub, in_fresh_process, tmp_path):
    """A card may not name files of this machine as its data, and a data set's script does not run."""
    secret, marker = tmp_path / "secret.jsonl", tmp_path / "marker"
    secret.write_text('{"question": "private", "answer": "private"}\n')
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n"
    contents = {
        "alice/absolute": {"README.md": card.format(secret).encode()},
        "alice/relative": {"README.md": card.format(f"../../../../../../..{secret}").encode()},
        "alice/url": {"README.md": card.format(f"file://{secret}").encode()},
        "alice/scripted": {"scripted.py": f"open({str(marker)!r}, 'w')".encode()},
        "alice/good": {"train.jsonl": b'{"question": "1 + 1?", "answer": "2"}'},
    }
    for name, files in contents.items():
        HfApi().create_repo(name, repo_type="dataset")
        hub.repo(name, "datasets").add_commit("main", "trap", {path: hub.store(data) for path, data in files.items()})
    said = in_fresh_process(f"NAMES = {list(contents)!r}\n{READ}").splitlines()
    good, text = said[8:]
    assert text == "['1 + 1?']"
    assert "question='1 + 1?'" in good and f"source='alice/good@{hub.repo('alice/good', 'datasets').at().sha}'" in good
    for name, problems, text in zip(list(contents)[:4], said[0:8:2], said[1:8:2], strict=True):
        assert problems.startswith(f"cannot read problems from '{name}': ")
        assert text.startswith(f"cannot read text from '{name}': ")
    assert "private" not in "".join(said)
    assert "Dataset scripts are no longer supported" in said[6]
    assert not marker.exists()
