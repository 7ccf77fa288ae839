"""What `pip install .` installs calibrates, prunes and pushes; what needs more says so in a sentence, at once."""

import subprocess
import sys

import pytest

from optimum_ssgr.errors import ConfigError
from optimum_ssgr.extras import missing_extra, require_extra


TINY = ["-m", "tiny-reasoner", "--quiet"]
CALIBRATE = ["--problems", "tiny-reasoner", "--num-problems", "2", "--samples-per-problem", "2", "--max-new-tokens", "40"]
SELECT = ["--strategy", "resp", "--num-sequences", "1"]


def ssgr_without(libraries, *commands, cwd):
    """Run commands, one after another, where some libraries cannot be imported."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({libraries}))\n"  # None there stops the import of a module, and of all below it
        "from optimum.commands.optimum_cli import main\n"
        f"for arguments in {commands}:\n"
        "    sys.argv = ['optimum-cli', 'ssgr', *arguments]\n"
        "    main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
def test_calibrating_and_pruning_need_no_extra(tmp_path):
    extras = ["matplotlib", "gradio", "reasoning_gym"]
    calibrate = ["calibrate", "set", "-m", "tiny-reasoner", *CALIBRATE, *SELECT]
    prune = ["prune", "sparse", *TINY, "--calibration", "set", "--method", "wanda"]
    done = ssgr_without(extras, calibrate, prune, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is saved without histograms: histograms need matplotlib; install it with `pip install 'optimum-ssgr[report]'`." in (
        done.stderr
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
    done = ssgr_without([library], arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"need {library}; install it with `pip install 'optimum-ssgr[{extra}]'`.")
    assert "Traceback" not in done.stderr and not any(tmp_path.iterdir())


def test_nothing_is_said_of_what_is_there():
    assert missing_extra("json", "report", "plots") is None
    require_extra("json", "report", "plots")
    sentence = r"^plots need no_such_library; install it with `pip install 'optimum-ssgr\[report\]'`\.$"
    with pytest.raises(ConfigError, match=sentence):
        require_extra("no_such_library", "report", "plots")
