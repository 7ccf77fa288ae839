import json
import re
import socket
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml

from optimum_ssgr.chat.deploy import PACKAGE, SOURCE
from optimum_ssgr.chat.settings import ChatSettings
from optimum_ssgr.errors import ConfigError
from tests.hub_server import HubServer
from tests.hub_server.clients import turn_clients
from tests.hub_server.repositories import Repository

from .browsing import ask, finish, is_served, wait_until


SPACE = "alice/compare"


def parts_of(requirement):
    """Name and versions, in whatever order the bounds are written."""
    return frozenset(re.split("[,>=<]+", requirement))


def test_the_requirements_are_those_of_the_package():
    """With what the page needs, and what draws the histograms that it shows."""
    declared = {
        re.split(r"\s*;", line)[0].replace(" ", "")
        for line in requires("optimum-ssgr")
        if "extra ==" not in line or re.search(r"extra == ['\"](chat|report)['\"]", line)
    }
    lines = [line for line in (SOURCE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert {frozenset(re.split("[,>=<]+", line)) for line in lines} == {
        frozenset(re.split("[,>=<]+", line)) for line in declared
    }


def test_the_card_is_what_the_hub_wants():
    head = yaml.safe_load((SOURCE / "README.md").read_text().split("---")[1])
    assert (head["sdk"], head["app_file"], head["sdk_version"]) == ("gradio", "app.py", version("gradio"))
    assert head["colorFrom"] in ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
    assert len(head["short_description"]) <= 60


class Cli:
    """`optimum-cli ssgr push` as a user would give it, against a Hub on loopback."""

    def __init__(self, hub, folder, cli):
        self.hub, self.folder, self.cli, self.outputs = hub, folder, cli, []

    def push(self, *arguments, **environment):
        with pytest.MonkeyPatch.context() as patch:
            turn_clients(patch, self.hub, self.folder / "home")
            done = self.cli("push", *arguments, cwd=self.folder, **environment)
        self.outputs += [done.out, done.err]
        return done


@pytest.fixture
def cli(cli, hub_server, tmp_path):
    """A Hub with two models, one of them private."""
    hub_server.reset()
    for name, private in (("dense", False), ("sparse", True)):
        repo = hub_server.repos["models", f"alice/{name}"] = Repository("models", f"alice/{name}", private=private)
        repo.add_commit("main", "initial commit", {"config.json": hub_server.store(b"{}")})
    return Cli(hub_server, tmp_path, cli)


def space(hub):
    repo = hub.repo(SPACE, "spaces")
    return repo, {path: hub.read(SPACE, path, kind="spaces") for path in repo.at().files}


def metadata(card):
    return yaml.safe_load(card.decode().split("---")[1])


def test_a_deployed_space_holds_the_page_and_a_second_time_changes_nothing(cli):
    done = cli.push("--space", SPACE, "--models", "alice/dense", "alice/sparse", "--private")
    assert done.code == 0, done.err
    repo, files = space(cli.hub)
    assert repo.private and repo.at().sha in done.out and len(repo.history()) == 2  # the first is the Hub's own
    assert "HF_TOKEN" in done.out and "alice/sparse" in done.out and "alice/dense" not in done.out
    package = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    assert {path for path in package if "__pycache__" not in path} <= files.keys()
    assert {"app.py", "requirements.txt"} <= files.keys() and not [path for path in files if "__pycache__" in path]
    assert json.loads(files["settings.json"]) == {"models": ["alice/dense", "alice/sparse"]}
    head = metadata(files["README.md"])
    assert (head["sdk"], head["sdk_version"], head["app_file"]) == ("gradio", version("gradio"), "app.py")
    assert head["models"] == ["alice/dense", "alice/sparse"] and b"Make it yours" in files["README.md"]
    done = cli.push("--space", SPACE, "--models", "alice/dense", "alice/sparse", "--private")
    assert done.code == 0 and len(repo.history()) == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (["--models", "alice/dense"], {}, 2, "give 2 to 4 models"),
        (["--models", "alice/dense", "here"], {}, 2, "here lies on this machine"),
        (["--models", "alice/dense", "alice/none"], {}, 1, "there is no model alice/none"),
        (["here", "alice/x"], {}, 2, "give no DIR with --space"),
        (["--evaluation", "results"], {}, 2, "--evaluation is for the card of a checkpoint"),
        ([], {"HF_TOKEN": ""}, 1, "there is no Hugging Face token"),
        ([], {"HF_TOKEN": HubServer.read_token}, 1, "write access"),
    ],
)
def test_what_would_not_run_is_not_deployed(cli, arguments, environment, code, message):
    (cli.folder / "here").mkdir()
    done = cli.push("--space", SPACE, *arguments, **environment)
    assert done.code == code and message in done.err.splitlines()[-1], done.err
    assert "Traceback" not in done.err and ("spaces", SPACE) not in cli.hub.repos


def test_another_app_is_not_overwritten(cli):
    repo = cli.hub.repos["spaces", SPACE] = Repository("spaces", SPACE)
    repo.add_commit("main", "mine", {"app.py": cli.hub.store(b"print('mine')")})
    done = cli.push("--space", SPACE)
    assert done.code == 1 and "holds another app" in done.err.splitlines()[-1]
    assert len(repo.history()) == 1


@pytest.mark.slow
def test_a_space_keeps_its_edits_and_sends_its_votes_when_it_is_stopped(cli, stub, open_page):
    """The owner has edited settings and card. The Space runs with nothing but its own files, and is ended as the Hub does."""
    assert cli.push("--space", SPACE).code == 0
    hub, (repo, files) = cli.hub, space(cli.hub)
    settings = {"models": ["right", "wrong"], "engine": stub.url, "votes": "hf://datasets/alice/votes"}
    card = files["README.md"].decode().replace("title: Dense and pruned", "title: My models") + "\nMine.\n"
    edited = {"settings.json": json.dumps(settings), "README.md": card, "notes.txt": "mine", "optimum_ssgr/old.py": "stale"}
    repo.add_commit("main", "edit", dict(repo.at().files) | {path: hub.store(text.encode()) for path, text in edited.items()})
    assert cli.push("--space", SPACE).code == 0
    _, files = space(hub)
    assert files.keys() >= {"notes.txt"} and "optimum_ssgr/old.py" not in files
    assert files["settings.json"].decode() == edited["settings.json"] and files["README.md"].decode() == card

    folder = cli.folder / "space"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = hub.environment(cli.folder / "home") | {"GRADIO_SERVER_PORT": str(port)}
    environment.pop("PYTHONPATH", None)
    with (cli.folder / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_until(lambda: process.poll() is not None or is_served(url), seconds=120)
        page = open_page(url)
        ask(page, "6 * 7?", "42")
        finish(page)
        page.click("#best-1")
        page.wait_for_selector("#status >> text=Thank you")
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
    (path,) = (path for path in hub.repo("alice/votes", "datasets").at().files if path.endswith(".jsonl"))
    vote = json.loads(hub.read("alice/votes", path, kind="datasets"))
    assert vote["vote"] == "right" and vote["questions"] == ["6 * 7?"] and hub.repo("alice/votes", "datasets").private
    log = (cli.folder / "log.txt").read_text()
    assert "Traceback" not in log
    written = [content.decode(errors="replace") for content in hub.objects.values()]
    assert not any(hub.token in text for text in (log, *cli.outputs, *written))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ["one"]}, "2 to 4"),
        ({"models": ["a", "a"]}, "once"),
        ({"models": "a/b"}, "models must be a list"),
        ({"models": ["a", "b", "c"], "engine": "http://a/v1,http://b/v1"}, "one for each"),
        ({"temperature": 3}, "temperature"),
        ({"queue_size": 0}, "queue_size"),
        ({"nonsense": 1}, "nonsense"),
        ([], "cannot read"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, values, message):
    path = Path(tmp_path / "settings.json")
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        ChatSettings.from_file(path)


def test_without_a_file_the_settings_are_the_defaults(tmp_path):
    assert ChatSettings.from_file(tmp_path / "settings.json") == ChatSettings()
