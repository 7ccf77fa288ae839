"""Code that comes with a model never runs unless the user says so, whichever command loads the model and from wherever."""

import dataclasses
import json
import shutil
import sys

import pytest
from huggingface_hub import HfApi
from optimum.commands.optimum_cli import main

from optimum_ssgr.calibration.dataset import CalibrationSet
from optimum_ssgr.config import CalibrationConfig
from optimum_ssgr.reasoner import WEIGHTS
from tests.calibration.test_dataset import make
from tests.cards.test_render import CARDS


REPO = "alice/custom"
NEEDING = ["unknown", "tokenizer", "code elsewhere"]
ASKED = ["--problems", "tiny-reasoner", "--num-problems", "2", "--max-new-tokens", "8"]
TEXT = ["--text", "text.txt", "--text-length", "8"]
COMMANDS = {
    "calibrate": ["calibrate", "out", "-m", "MODEL", *ASKED, "--samples-per-problem", "1"],
    "calibrate, dry": ["calibrate", "out", "-m", "MODEL", *ASKED, "--dry-run"],
    "calibrate on text": ["calibrate", "out", "-m", "MODEL", "--strategy", "text", *TEXT, "--num-tokens", "80"],
    "prune": ["prune", "out", "-m", "MODEL", "--method", "magnitude"],
    "prune, streaming": ["prune", "out", "-m", "MODEL", "--method", "magnitude", "--streaming"],
    "prune on problems": ["prune", "out", "-m", "MODEL", *ASKED, "--samples-per-problem", "1"],
    "evaluate": ["evaluate", "-m", "MODEL", *ASKED],
    "evaluate a server's": ["evaluate", "-m", "MODEL", *ASKED, "--engine", "http://127.0.0.1:9/v1"],
    "study": ["study", "out", "-m", "MODEL", *ASKED, *TEXT, "--num-tokens", "80", "--seeds", "1"],
    "select": ["select", "set", "out", "--strategy", "mix", *TEXT],
}


def ssgr(monkeypatch, folder, *arguments):
    """Run a command in this process, and return its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "ssgr", *arguments])
    try:
        main()
    except SystemExit as stopped:
        return stopped.code
    return 0


@pytest.fixture
def marker(tmp_path):
    """Exists once any of the model's own code has run."""
    return tmp_path / "marker"


@pytest.fixture
def custom(marker, tmp_path):
    """Makes the embedded reasoner a model with code of its own, which it needs where its kind or tokenizer is unheard of."""
    (tmp_path / "text.txt").write_text("one two three four " * 100)

    def make_model(kind):
        folder = tmp_path / "model"
        shutil.copytree(WEIGHTS, folder)
        code = (
            f"open({str(marker)!r}, 'w')\nraise OSError('it ran')\nclass Config: ...\nclass Model: ...\nclass Tokenizer: ...\n"
        )
        for path in (folder / "own.py", folder / "custom_generate" / "generate.py"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)
        where = "alice/code--own" if kind == "code elsewhere" else "own"
        config = {"auto_map": {"AutoConfig": f"{where}.Config", "AutoModelForCausalLM": f"{where}.Model"}}
        tokenizer = {"auto_map": {"AutoTokenizer": [f"{where}.Tokenizer", None]}}
        if kind == "tokenizer":
            tokenizer["tokenizer_class"] = "Unheard"
        elif kind != "known":
            config["model_type"] = "unheard-of"
        for name, own in (("config.json", config), ("tokenizer_config.json", tokenizer)):
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | own))
        return folder

    return make_model


def assert_refused(code, said):
    assert code == 1
    message = said.splitlines()[-1]
    assert (
        "it takes code that comes with it; look at that code, and if you trust it, allow it with --trust-remote-code" in message
    )
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in COMMANDS if name not in ("select", "study") for kind in NEEDING),
        ("study", "unknown"),
    ],
)
def test_a_model_that_needs_its_own_code_is_refused(custom, marker, tmp_path, monkeypatch, capsys, name, kind):
    model = custom(kind)
    code = ssgr(monkeypatch, tmp_path, *(str(model) if part == "MODEL" else part for part in COMMANDS[name]))
    assert_refused(code, capsys.readouterr().err)
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("select", "study")])
def test_code_that_is_not_needed_does_not_run(custom, marker, tmp_path, monkeypatch, capsys, name):
    model = custom("known")
    ssgr(monkeypatch, tmp_path, *(str(model) if part == "MODEL" else part for part in COMMANDS[name]))
    assert "trust" not in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("name", ["prune, streaming", "evaluate"])
def test_it_runs_when_the_user_says_so(custom, marker, tmp_path, monkeypatch, capsys, name):
    """Or the tests above would show nothing."""
    model = custom("unknown")
    command = [str(model) if part == "MODEL" else part for part in COMMANDS[name]]
    assert ssgr(monkeypatch, tmp_path, *command, "--trust-remote-code") == 1
    assert "it ran" in capsys.readouterr().err
    assert marker.exists()


def test_a_calibration_set_names_no_code_to_run(custom, marker, tmp_path, monkeypatch, capsys):
    built = make(CalibrationConfig(num_sequences=4))
    built = CalibrationSet(built.dataset, built.rollouts, dataclasses.replace(built.manifest, model=str(custom("tokenizer"))))
    built.save_to_disk(tmp_path / "set")
    code = ssgr(monkeypatch, tmp_path, *COMMANDS["select"])
    assert_refused(code, capsys.readouterr().err)
    assert not marker.exists()


def test_inspecting_and_pushing_run_nothing(hub, custom, marker, tmp_path, monkeypatch):
    """Then, from the Hub: inspected, and refused where it would have to run."""
    model = custom("unknown")
    shutil.copy(CARDS / "model" / "ssgr_config.json", model)
    assert ssgr(monkeypatch, tmp_path, "inspect", str(model)) == 0
    assert ssgr(monkeypatch, tmp_path, "push", str(model), REPO) == 0
    assert "own.py" in hub.repo(REPO).at().files
    assert ssgr(monkeypatch, tmp_path, "inspect", REPO) == 0
    assert not marker.exists()


@pytest.mark.parametrize("name", ["calibrate", "prune", "prune, streaming", "evaluate"])
def test_a_model_on_the_hub_is_refused_as_well(hub, custom, marker, tmp_path, monkeypatch, capsys, name):
    model = custom("unknown")
    files = {path.relative_to(model).as_posix(): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    HfApi().create_repo(REPO)
    hub.repo(REPO).add_commit("main", "custom", {path: hub.store(data) for path, data in files.items()})
    code = ssgr(monkeypatch, tmp_path, *(REPO if part == "MODEL" else part for part in COMMANDS[name]))
    assert_refused(code, capsys.readouterr().err)
    assert not marker.exists()
