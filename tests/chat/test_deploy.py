import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import gradio
import pytest
import yaml

from optimum_ssgr.chat.deploy import SOURCE, write_space
from optimum_ssgr.chat.settings import ChatSettings
from optimum_ssgr.errors import ConfigError, OutputError


def parts_of(requirement):
    """Name and versions, in whatever order the bounds are written."""
    return frozenset(re.split("[,>=<]+", requirement))


def test_the_requirements_are_those_of_the_package():
    declared = {
        re.split(r"\s*;", line)[0].replace(" ", "")
        for line in requires("optimum-ssgr")
        if "extra ==" not in line or "'space'" in line or '"space"' in line
    }
    lines = [line for line in (SOURCE / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert {frozenset(re.split("[,>=<]+", line)) for line in lines} == {
        frozenset(re.split("[,>=<]+", line)) for line in declared
    }


def test_the_card_is_what_the_hub_wants():
    head = yaml.safe_load((SOURCE / "README.md").read_text().split("---")[1])
    assert (head["sdk"], head["app_file"], head["sdk_version"]) == ("gradio", "app.py", gradio.__version__)
    assert head["colorFrom"] in ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
    assert len(head["short_description"]) <= 60


def test_a_written_space_runs_by_itself(tmp_path, models):
    folder = write_space(tmp_path / "space", ChatSettings(models=models[:2], votes="hf://datasets/me/votes"))
    assert {"app.py", "README.md", "requirements.txt", "settings.json", "optimum_ssgr"} <= {
        path.name for path in folder.iterdir()
    }
    assert ChatSettings.from_file(folder / "settings.json").votes == "hf://datasets/me/votes"
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"votes": "votes.jsonl"}))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import app, optimum_ssgr; print(optimum_ssgr.__file__, app.demo.title, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder / "optimum_ssgr" / "__init__.py"), "Dense and pruned, side by side"]
    with pytest.raises(OutputError, match="not empty"):
        write_space(folder, ChatSettings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": ["one"]}, "2 to 4"),
        ({"models": ["a", "a"]}, "once"),
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
