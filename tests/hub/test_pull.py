"""Calibration sets from the Hub: pinned, checked, and through trouble that passes; and of a model no more than is needed."""

import json

import pytest
from huggingface_hub import HfApi, constants

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.calibration.strategies import Sources, select
from optimum_ssgr.checkpoints.inspect import INDEX, find_checkpoint, inspect_checkpoint
from optimum_ssgr.checkpoints.load import load_model
from optimum_ssgr.checkpoints.streaming import load_streamed
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.errors import DataError, HubError
from optimum_ssgr.formats import Manifest
from optimum_ssgr.reasoner import NAME
from optimum_ssgr.sharing import load_calibration_set
from tests.calibration.test_strategies import graded
from tests.cards.test_render import CARDS


REPO = "alice/set"


def calibration_set(num_sequences=4, passes=4, **about):
    config, items = CalibrationConfig(num_sequences=num_sequences), graded({"a": 1, "b": 2, "c": passes})
    manifest = json.loads((CARDS / "dataset" / "manifest.json").read_text()) | {"calibration": config.to_dict()} | about
    return CalibrationSet.build(select(Sources(items), config), items, Manifest.from_dict(manifest), config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a set, and of another of the same kind."""
    found = []
    for made in (calibration_set(), calibration_set(2, passes=3)):
        folder = tmp_path_factory.mktemp("set") / "set"
        made.save_to_disk(folder)
        found.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    return found


@pytest.fixture
def there(hub, files, monkeypatch):
    """A repository that holds the first of them."""
    HfApi().create_repo(REPO, repo_type="dataset")
    repo = hub.repo(REPO, "datasets")
    repo.add_commit("main", "set", {name: hub.store(data) for name, data in files[0].items()})
    hub.calls.clear()
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.3)
    return repo


@pytest.mark.slow
def test_what_was_pushed_comes_back_with_its_commit(hub):
    made = calibration_set()
    commit = made.push_to_hub(REPO).oid
    assert made.push_to_hub(REPO).oid == commit
    loaded = CalibrationSet.from_hub(REPO)
    assert (loaded.sequences, loaded.rollouts.to_list()) == (made.sequences, made.rollouts.to_list())
    assert loaded.manifest.to_dict() == made.manifest.to_dict() | {"hub": {"id": REPO, "commit": commit}}


@pytest.mark.slow
def test_pruning_fetches_the_sequences_without_the_rollouts(there, hub, files, tmp_path, monkeypatch):
    whole = CalibrationSet.from_hub(REPO)
    hub.calls.clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    loaded = load_calibration_set(REPO, with_rollouts=False)
    fetched = {call.path.split("/resolve/")[1].partition("/")[2] for call in hub.named("resolve")}
    assert fetched == {"manifest.json", "calibration/train.parquet"}
    assert (loaded.sequences, loaded.rollouts) == (whole.sequences, None)
    assert loaded.manifest == whole.manifest  # which still says what the rollouts were
    loaded.save_to_disk(tmp_path / "sequences")
    assert CalibrationSet.load_from_disk(tmp_path / "sequences").sequences == whole.sequences


def test_damaged_rollouts_do_not_matter_to_pruning(files, tmp_path):
    for name, data in files[0].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "rollouts" / "train.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="is damaged"):
        load_calibration_set(tmp_path)
    assert load_calibration_set(tmp_path, with_rollouts=False).sequences


def test_a_revision_pins_what_is_pulled(hub, there, files):
    first = there.at().sha
    later = there.add_commit("main", "another", {name: hub.store(data) for name, data in files[1].items()}).sha
    HfApi().create_tag(REPO, repo_type="dataset", tag="v1", revision=first)
    for revision, commit, sequences in ((None, later, 2), ("v1", first, 4), (first, first, 4), ("main", later, 2)):
        loaded = CalibrationSet.load(REPO if revision is None else f"{REPO}@{revision}")
        assert (loaded.manifest.hub["commit"], len(loaded.sequences)) == (commit, sequences)


@pytest.mark.parametrize("call", ["repo_info", "tree", "resolve"])
@pytest.mark.parametrize(
    "fault",
    [
        *({"status": status} for status in (429, 500, 503)),
        {"cut": "before"},
        {"cut": "during"},
        {"cut": "reply"},
        {"cut": "halfway"},
        {"stall": "before"},
        {"stall": "after"},
    ],
    ids=str,
)
def test_trouble_that_passes_does_not_show(hub, there, call, fault):
    injected = hub.fault(call, **fault)
    assert CalibrationSet.from_hub(REPO).sequences == calibration_set().sequences
    assert injected.times == 0


@pytest.mark.parametrize("call", ["repo_info", "tree", "resolve"])
@pytest.mark.parametrize(
    "fault", [{"status": 401}, {"status": 403}, {"status": 404}, {"status": 503}, {"cut": "before"}], ids=str
)
def test_trouble_that_stays_is_a_sentence(hub, there, call, fault):
    hub.fault(call, times=1000, **fault)
    with pytest.raises(HubError) as raised:
        CalibrationSet.from_hub(REPO)
    message = str(raised.value)
    assert "\n" not in message and message.endswith(".") and REPO in message
    assert raised.value.__context__ is None and raised.value.__cause__ is None


@pytest.mark.parametrize("name", ["calibration/train.parquet", "rollouts/train.parquet", "manifest.json"])
@pytest.mark.parametrize("change", ["cut", "another's", "gone"])
def test_what_is_not_what_was_pushed_is_refused(hub, there, files, name, change):
    changed = dict(there.at().files)
    if change == "gone":
        del changed[name]
    else:
        changed[name] = hub.store(files[0][name][:-100] if change == "cut" else files[1][name])
    commit = there.add_commit("main", "changed", changed).sha
    with pytest.raises(DataError, match=f"{REPO}@{commit}") as raised:
        CalibrationSet.from_hub(REPO)
    assert "\n" not in str(raised.value)


def test_a_data_set_of_something_else_is_refused(hub):
    HfApi().create_repo(REPO, repo_type="dataset")
    with pytest.raises(DataError, match=r"is not a calibration set: manifest\.json is missing"):
        CalibrationSet.from_hub(REPO)


@pytest.mark.parametrize("read", [lambda source: list(inspect_checkpoint(find_checkpoint(source))), load_streamed])
@pytest.mark.parametrize("sharded", [True, False])
def test_of_a_model_only_the_weights_that_transformers_loads_are_fetched(hub, tmp_path, read, sharded):
    model, tokenizer = load_model(NAME)
    model.save_pretrained(tmp_path, max_shard_size="2MB" if sharded else "1GB")
    tokenizer.save_pretrained(tmp_path)
    weights = {path.name for path in tmp_path.glob("*.safetensors")}
    assert (len(weights) > 1) == sharded
    files = {path.name: hub.store(path.read_bytes()) for path in tmp_path.iterdir()}
    copies = ["original/model.safetensors", "original/model-00001-of-00004.safetensors", "consolidated.safetensors"]
    if not sharded:
        files[INDEX] = hub.store(b'{"weight_map": {"stale": "model-00001-of-00002.safetensors"}}')
        copies.append("model-00001-of-00002.safetensors")
    HfApi().create_repo("alice/m")
    hub.repo("alice/m").add_commit("main", "weights", files | {name: hub.store(b"a copy") for name in copies})
    read("alice/m")
    fetched = {call.path.split("/resolve/")[1].partition("/")[2] for call in hub.named("resolve")}
    assert {name for name in fetched if name.endswith(".safetensors")} == weights
