"""What `pip install .` installs calibrates, prunes and pushes; what needs more says so in a sentence, at once."""

import sys

import pytest

from optimum_ssgr.errors import ConfigError
from optimum_ssgr.extras import missing_extra, require_extra

from .processes import ssgr, started


TINY = ["-m", "tiny-reasoner", "--quiet"]
CALIBRATE = ["--problems", "tiny-reasoner", "--num-problems", "2", "--samples-per-problem", "2", "--max-new-tokens", "40"]
SELECT = ["--strategy", "resp", "--num-sequences", "1"]


def ssgr_without(libraries, *commands, cwd):
    """Run commands, one after another, where some libraries cannot be imported; return the exit code and standard error."""
    with started(run_without, libraries, commands, cwd=cwd) as running:
        return running.wait(), running.err.read_text()


def run_without(libraries, commands):
    assert not {name.split(".")[0] for name in sys.modules} & set(libraries)  # neither is what imports them where it begins
    sys.modules.update(dict.fromkeys(libraries))  # None there stops the import of a module, and of all below it
    for arguments in commands:
        ssgr(*arguments)


@pytest.mark.slow
def test_calibrating_and_pruning_need_no_extra(tmp_path):
    extras = ["matplotlib", "gradio", "reasoning_gym"]
    calibrate = ["calibrate", "set", "-m", "tiny-reasoner", *CALIBRATE, *SELECT]
    prune = ["prune", "sparse", *TINY, "--calibration", "set", "--method", "wanda"]
    code, errors = ssgr_without(extras, calibrate, prune, cwd=tmp_path)
    assert code == 0, errors
    assert "is saved without histograms: histograms need matplotlib; install it with `pip install 'optimum-ssgr[report]'`." in (
        errors
    )
    assert not (tmp_path / "set" / "histograms.png").exists()
    assert (tmp_path / "sparse" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "extra", "arguments"),
    [
        ("gradio", "chat", ["chat", "--engine", "http://127.0.0.1:9/v1", "one", "two"]),
        (
            "matplotlib",
            "report",
            ["study", "out", *TINY, "--problems", "tiny-reasoner", "--text", "tiny-reasoner"],
        ),
        ("matplotlib", "report", ["demo", "out"]),
        ("reasoning_gym", "problems", ["calibrate", "out", *TINY, "--problems", "reasoning-gym:gcd"]),
    ],
    ids=["chat", "study", "demo", "problems"],
)
def test_what_needs_an_extra_says_so_before_any_work(tmp_path, library, extra, arguments):
    code, errors = ssgr_without([library], arguments, cwd=tmp_path)
    assert code == 2
    assert errors.splitlines()[-1].endswith(f"need {library}; install it with `pip install 'optimum-ssgr[{extra}]'`.")
    assert "Traceback" not in errors and not any(tmp_path.iterdir())


def test_nothing_is_said_of_what_is_there():
    assert missing_extra("json", "report", "plots") is None
    require_extra("json", "report", "plots")
    sentence = r"^plots need no_such_library; install it with `pip install 'optimum-ssgr\[report\]'`\.$"
    with pytest.raises(ConfigError, match=sentence):
        require_extra("no_such_library", "report", "plots")
