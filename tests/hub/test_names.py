"""`MODEL@REVISION`: two commits of one model are two models, wherever models are named."""

import json
import shutil

import pytest
from huggingface_hub import HfApi

from optimum_ssgr import CalibrationConfig, EvaluationConfig, SamplingConfig, SSGRPruner, StudyConfig
from optimum_ssgr.chat.compared_models import describe_model
from optimum_ssgr.chat.deploy import card, check_space
from optimum_ssgr.checkpoints.inspect import find_checkpoint
from optimum_ssgr.checkpoints.load import load_config, load_model, load_skeleton, load_tokenizer
from optimum_ssgr.checkpoints.streaming import load_streamed
from optimum_ssgr.compat import model_commit, model_name
from optimum_ssgr.errors import ConfigError, HubError, ModelError
from optimum_ssgr.evaluation.benchmarks import lighteval_command
from optimum_ssgr.evaluation.results import card_metadata
from optimum_ssgr.hub.names import split_revision
from optimum_ssgr.problems.options import ProblemOptions
from optimum_ssgr.reasoner import WEIGHTS
from optimum_ssgr.study.inputs import read_inputs, study_metadata
from tests.evaluation.test_evaluate import ROW
from tests.hub.test_remote_code import ASKED, ssgr


BASE = "alice/base"


@pytest.fixture
def commits(hub):
    """The embedded reasoner on the Hub, tagged v1; in the commit after it its context holds less."""
    HfApi().create_repo(BASE)
    files = {path.name: hub.store(path.read_bytes()) for path in WEIGHTS.iterdir()}
    first = hub.repo(BASE).add_commit("main", "weights", files)
    HfApi().create_tag(BASE, tag="v1", revision=first.sha)
    config = json.loads((WEIGHTS / "config.json").read_text()) | {"max_position_embeddings": 900}
    second = hub.repo(BASE).add_commit("main", "less", files | {"config.json": hub.store(json.dumps(config).encode())})
    return first.sha, second.sha


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/model@v1", ("org/model", "v1")),
        ("org/model@refs/pr/3", ("org/model", "refs/pr/3")),
        ("gpt2@main", ("gpt2", "main")),
        ("org/model", ("org/model", None)),
        ("tiny-reasoner", ("tiny-reasoner", None)),
        ("/data/me@home/model", ("/data/me@home/model", None)),
        ("./run@2/model", ("./run@2/model", None)),
        ("../run@2", ("../run@2", None)),
        ("org/model@", ("org/model@", None)),
    ],
)
def test_a_revision_is_split_off_hub_ids_alone(name, parts):
    assert split_revision(name) == parts


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WEIGHTS, tmp_path / "runs" / "model@v1")
    assert split_revision("runs/model@v1") == ("runs/model@v1", None)
    model, _ = load_model("runs/model@v1")
    assert model_name(model) == "runs/model@v1"
    assert find_checkpoint("runs/model@v1").samefile(tmp_path / "runs" / "model@v1")


def test_every_loader_reads_the_commit_that_is_named(hub, commits):
    first, second = commits
    for name, commit, context in ((f"{BASE}@v1", first, 1024), (BASE, second, 900), (f"{BASE}@{first}", first, 1024)):
        for load in (load_skeleton, lambda name: load_model(name)[0], lambda name: load_streamed(name)[0]):
            model = load(name)
            assert (model_name(model), model_commit(model)) == (BASE, commit)
            assert model.config.max_position_embeddings == context
        assert load_config(name).max_position_embeddings == context
        assert json.loads((find_checkpoint(name) / "config.json").read_text())["max_position_embeddings"] == context
    with pytest.raises(ModelError, match=r"cannot load the model 'alice/base@v2': .*does not have this revision"):
        load_tokenizer(f"{BASE}@v2")


def test_in_python_a_revision_is_given_once(hub, commits):
    pruner = SSGRPruner.from_pretrained(BASE, revision="v1")
    assert model_commit(pruner.model) == commits[0]
    with pytest.raises(ConfigError, match="'alice/base@v1' names a revision, and so does revision='main'; give one of them"):
        SSGRPruner.from_pretrained(f"{BASE}@v1", revision="main")


def test_two_commits_are_compared_and_both_are_recorded(hub, commits, tmp_path, monkeypatch):
    names = [f"{BASE}@v1", BASE]
    assert ssgr(monkeypatch, tmp_path, "evaluate", *ASKED, "-m", names[1], "--baseline", names[0], "--output", "results") == 0
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {name: known["commit"] for name, known in results["models"].items()} == dict(zip(names, commits, strict=True))
    assert [row["model"] for row in results["rows"]] == names


@pytest.mark.slow
def test_commands_that_name_one_model_take_its_commit(hub, commits, tmp_path, monkeypatch, capsys):
    assert ssgr(monkeypatch, tmp_path, "inspect", f"{BASE}@v1") == 0
    assert "28 matrices" in capsys.readouterr().out
    asked = [*ASKED, "--samples-per-problem", "1", "--strategy", "rac"]
    assert ssgr(monkeypatch, tmp_path, "calibrate", "set", "-m", f"{BASE}@v1", *asked) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert (manifest["model"], manifest["model_commit"]) == (BASE, commits[0])


@pytest.mark.slow
def test_text_is_tokenized_as_the_rollouts_were(hub, commits, tmp_path, monkeypatch):
    """The tokenizer on the main branch is another one by now."""
    (tmp_path / "text.txt").write_text("one two three four " * 100)
    asked = [*ASKED, "--samples-per-problem", "1", "--strategy", "rac"]
    assert ssgr(monkeypatch, tmp_path, "calibrate", "set", "-m", f"{BASE}@v1", *asked) == 0
    tokenizer = json.loads((WEIGHTS / "tokenizer.json").read_text())
    words = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    tokenizer["model"]["vocab"] = {f"{word}x" if number > 600 else word: number for word, number in words}
    files = dict(hub.repo(BASE).at().files) | {"tokenizer.json": hub.store(json.dumps(tokenizer).encode())}
    hub.repo(BASE).add_commit("main", "another tokenizer", files)
    again = ["select", "set", "mixed", "--strategy", "text", "--text", "text.txt", "--text-length", "8"]
    assert ssgr(monkeypatch, tmp_path, *again, "--num-tokens", "80") == 0


def test_a_study_stays_with_the_commit_it_began_with(hub, commits, tmp_path):
    (tmp_path / "text.txt").write_text("one two three four " * 400)
    config = StudyConfig(
        model=f"{BASE}@v1",
        problems="tiny-reasoner",
        calibration=CalibrationConfig(num_sequences=None, num_tokens=80, max_new_tokens=8, text_length=8),
        evaluation=SamplingConfig(max_new_tokens=8),
        text=str(tmp_path / "text.txt"),
        seeds=1,
        num_evaluation_problems=2,
        reading=ProblemOptions(limit=2),
    )
    inputs = read_inputs(config, tmp_path / "journal")
    assert inputs.config.model == study_metadata(inputs)["model"] == f"{BASE}@{commits[0]}"


def test_servers_cannot_tell_revisions_apart():
    with pytest.raises(ConfigError, match="cannot tell revisions of org/model apart"):
        EvaluationConfig(("org/model@v2",), ("gsm8k",), baseline="org/model@v1", engine="http://127.0.0.1:9/v1")
    EvaluationConfig(("org/model@v2",), ("gsm8k",), baseline="org/other@v1", engine="http://127.0.0.1:9/v1")


def test_a_page_and_a_space_link_to_the_revision(hub, commits):
    model = describe_model("org/model@refs/pr/3")
    assert (model.name, model.link) == ("org/model@refs/pr/3", "https://huggingface.co/org/model/tree/refs/pr/3")
    assert check_space("alice/space", [f"{BASE}@v1", "tiny-reasoner"]) == []
    with pytest.raises(HubError, match="does not have this revision"):
        check_space("alice/space", [f"{BASE}@v7", "tiny-reasoner"])
    assert "- alice/base\n" in card([f"{BASE}@v1", "tiny-reasoner"], None)


def test_what_is_handed_to_others_names_it_their_way():
    command = lighteval_command("org/model@v1", ["HuggingFaceH4/MATH-500"], SamplingConfig())
    assert '"model_name=org/model,revision=v1,dtype=auto,' in command
    written = card_metadata("org/model@refs/pr/3", [ROW | {"problems": "openai/gsm8k"}], {})
    assert "- name: model\n" in written
