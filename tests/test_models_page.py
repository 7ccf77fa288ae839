"""docs/models.md holds: it has every architecture, and what it says of some is so now."""

import importlib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SOME = ["Qwen2", "GPT-2", "gpt-oss", "Gemma 4, text", "LFM2", "Jamba"]  # of all kinds: a tenth of the page


@pytest.fixture
def models(monkeypatch):
    """The command that writes the page."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("models")


def test_every_architecture_has_a_row_and_every_no_a_reason(models):
    rows = models.read_rows(models.PAGE)
    assert list(rows) == list(models.ARCHITECTURES)
    for row in rows.values():
        _, kind, *cells, reason = (cell.strip() for cell in row.strip("|").split(" | "))
        assert kind.startswith("`") and set(cells) <= {"yes", "no", "-"}
        assert ("no" in cells) == bool(reason), row
    assert f"{len(rows)} architectures" in models.PAGE.read_text(encoding="utf-8")
    assert f"{len(rows)} architectures" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in SOME])
def test_a_row_is_what_comes_out_now(models, name):
    """If this fails, run `python benchmarks/models.py NAME` and look at what has changed."""
    assert models.try_architecture(name) == models.read_rows(models.PAGE)[name]


def test_rows_that_were_not_asked_for_stay(models, monkeypatch, tmp_path):
    page = tmp_path / "models.md"
    models.write_page(page, {"GPT-2": "| GPT-2 | `gpt2` | no | lost |", "Llama": "| Llama | `llama` | yes |  |"})
    monkeypatch.setattr(models, "try_architecture", lambda name: f"| {name} | `gpt2` | yes |  |")
    monkeypatch.setattr("sys.argv", ["models.py", "GPT-2", "--page", str(page)])
    models.main()
    assert models.read_rows(page) == {"Llama": "| Llama | `llama` | yes |  |", "GPT-2": "| GPT-2 | `gpt2` | yes |  |"}
    monkeypatch.setattr(models, "made_with", lambda: "other versions")
    models.main()
    assert list(models.read_rows(page)) == ["GPT-2"]
