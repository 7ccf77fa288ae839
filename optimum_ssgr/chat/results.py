"""The results tab: what was measured, where the zeros are, and what the models were calibrated on."""

import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..evaluation.intervals import format_share
from ..formats import HISTOGRAMS_FILE
from .compared_models import HUB, METHOD_LABELS, STRATEGY_LABELS, ComparedModel
from .settings import ChatSettings


_LAYER = re.compile(r"\.(\d+)\.(.+?)(?:\.weight)?$")
_FUNNEL_LABELS = {
    "problems": "problems",
    "rollouts": "responses sampled",
    "finished": "finished within the limit",
    "correct": "correct",
    "in_difficulty_window": "of challenging problems",
    "in_length_window": "of moderate length",
    "sequences": "selected",
}


def add_results_tab(models: Sequence[ComparedModel], settings: ChatSettings) -> None:
    """Place the components of the results tab; must be called where Gradio's blocks are open."""
    folder = Path(settings.results) if settings.results else None
    histograms = Path(settings.calibration) / HISTOGRAMS_FILE if settings.calibration else None
    with gr.Row(equal_height=False):
        gr.HTML(_side_by_side([render_accuracy(folder), render_links(models)]), elem_id="measured", min_width=520)
        for plot in sorted(folder.rglob("*.png")) if folder else ():
            if plot.name != HISTOGRAMS_FILE:
                _image(plot, f"Plot {plot.stem.replace('_', ' ')}")
    heat = [render_heat_map(model) for model in models if model.layers]
    gr.HTML(_side_by_side(heat), elem_id="heat")
    with gr.Row(equal_height=False):
        funnels = [render_funnel(model) + render_kinds(model) for model in models if model.calibration]
        gr.HTML(_side_by_side(funnels), elem_id="funnel", min_width=520)
        if histograms and histograms.is_file():
            _image(histograms, "Histograms of pass rates and lengths in the calibration set")


def render_accuracy(folder: Path | None) -> str:
    """Return the numbers of a `report.json` of a demo or a study, a table per set of problems; empty when there is none."""
    try:
        report = json.loads((folder / "report.json").read_text()) if folder else {"rows": []}
        sets: dict[str, list[dict[str, Any]]] = {}
        for row in report["rows"]:
            sets.setdefault(row["problems"] if isinstance(row["problems"], str) else "", []).append(row)
        return "".join(
            _accuracy_table(name, report["dense"].get("sets", {name: report["dense"]})[name], sets[name]) for name in sets
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _accuracy_table(name: str, dense: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    models = [dense | {"method": "dense"}, *rows]
    worst = ("worst kind",) if "kinds" in dense else ()
    heads = ("method", "calibrated on", "problems solved", *worst, "tokens", "truncated")
    lines = "".join(_accuracy_row(row, bool(worst)) for row in models)
    caption = f"{dense['problems']:,} held-out problems; ± is one standard error, in parentheses are 95 % intervals."
    title = f"Accuracy: {escape(name)}" if name else "Accuracy"
    accuracy = f"<h2>{title}</h2><table><tr>{_heads(heads)}</tr>{lines}</table><p class='hint'>{caption}</p>"
    return f"<section>{accuracy}</section>{_kinds_table(models) if worst else ''}"


def _accuracy_row(row: dict[str, Any], with_worst: bool) -> str:
    worst = (f"{escape(row['worst_kind'])} {_solved(row['kinds'][row['worst_kind']])}",) if with_worst else ()
    cells = (
        *_names(row),
        _track(row["accuracy"]) + _solved(row),
        *worst,
        f"{row['mean_tokens']:.0f}",
        f"{row['truncated']:.1%}",
    )
    return _table_row(cells)


def _kinds_table(models: Sequence[dict[str, Any]]) -> str:
    kinds = models[0]["kinds"]
    heads = ("method", "calibrated on", *(f"{escape(kind)} ({of['problems']:,})" for kind, of in kinds.items()))
    lines = "".join(_table_row((*_names(row), *(_solved(row["kinds"][kind]) for kind in kinds))) for row in models)
    caption = (
        "In parentheses beside each kind of problem is their number. The worst of several kinds is low by chance, too, the "
        "more so the fewer problems it has."
    )
    return f"<section><h2>By kind</h2><table><tr>{_heads(heads)}</tr>{lines}</table><p class='hint'>{caption}</p></section>"


def _names(row: dict[str, Any]) -> tuple[str, str]:
    """How a model was pruned, and what it was calibrated on."""
    method = METHOD_LABELS.get(row["method"], row["method"])
    share = f", {row['sparsity']:.0%}" if row.get("sparsity") else ""
    strategy = row.get("strategy") or row.get("calibration") or ""
    return f"{escape(method)}{share}", escape(STRATEGY_LABELS.get(strategy, strategy))


def _solved(row: dict[str, Any]) -> str:
    return format_share(row["accuracy"], row["accuracy_se"], row.get("accuracy_ci95"), sign="±")


def _heads(names: Sequence[str]) -> str:
    return "".join(f"<th scope='col'>{name}</th>" for name in names)


def _table_row(cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def render_heat_map(model: ComparedModel) -> str:
    """Return the sparsity of every pruned layer: kinds of layers down, blocks across."""
    found: dict[str, dict[int, float]] = {}
    for layer in model.layers:
        if match := _LAYER.search(str(layer["name"])):
            found.setdefault(match[2], {})[int(match[1])] = layer["zeros"] / math.prod(layer["shape"])
    blocks = sorted({block for kind in found.values() for block in kind})
    digits = 1 if len(blocks) <= 12 else 0
    head = "".join(f'<th scope="col">{block}</th>' for block in blocks)
    rows = "".join(
        f'<tr><th scope="row">{escape(kind)}</th>{"".join(_heat_cell(values.get(block), digits) for block in blocks)}</tr>'
        for kind, values in found.items()
    )
    title = f"Zeros by layer and block: {escape(model.title)}"
    total = f"{model.sparsity:.2%} of the weights in these layers are zero. Numbers are per cent."
    table = f"<table class='{'heat' if digits else 'heat dense'}'><tr><td></td>{head}</tr>{rows}</table>"
    return f"<section><h2>{title}</h2>{table}<p class='hint'>{total}</p></section>"


def _heat_cell(share: float | None, digits: int) -> str:
    if share is None:
        return "<td></td>"
    colour = f"color-mix(in srgb, var(--primary-500) {80 * share:.0f}%, transparent)"
    return f'<td style="background: {colour}">{100 * share:.{digits}f}</td>'


def render_funnel(model: ComparedModel) -> str:
    """Return how many responses came through each stage of the selection."""
    counts = model.calibration.get("counts") or {}
    present = [(label, counts[name]) for name, label in _FUNNEL_LABELS.items() if name in counts]
    most = max((count for _, count in present), default=0)
    rows = "".join(
        f"<tr><td>{label}</td><td>{_track(count / most)}</td><td>{count:,}</td></tr>" for label, count in present if most
    )
    tokens = f"{counts['tokens']:,} tokens in all." if "tokens" in counts else ""
    return f"<section><h2>Calibration: {escape(model.title)}</h2><table>{rows}</table><p class='hint'>{tokens}</p></section>"


def render_kinds(model: ComparedModel) -> str:
    """Return how often each kind of problem was solved, and its share of the selection; empty where that is not known."""
    kinds = model.calibration.get("kinds")
    if not kinds:
        return ""
    rows = "".join(
        _table_row(
            (
                escape(kind),
                "-" if of["pass_rate"] is None else f"{of['pass_rate']:.0%}",
                f"{_track(of['pool_share'])}{of['pool_share']:.1%}",
                f"{_track(of['selected_share'])}{of['selected_share']:.1%}",
            )
        )
        for kind, of in kinds.items()
    )
    heads = _heads(("kind", "pass rate", "of correct tokens", "of selected tokens"))
    title = f"Kinds of problems: {escape(model.title)}"
    return f"<section><h2>{title}</h2><table><tr>{heads}</tr>{rows}</table></section>"


def render_links(models: Sequence[ComparedModel]) -> str:
    """Return links to the models, and to the problems they were calibrated on, as far as they are on the Hub."""
    items = []
    for model in models:
        name = escape(model.source if model.link else model.name)
        shown = f'<a href="{model.link}" target="_blank" rel="noopener">{name}</a>' if model.link else name
        items.append(f"<li>{escape(model.title)}: {shown}</li>")
    sources = {model.calibration.get("problems", {}).get("source") for model in models}
    for source in sorted(filter(None, sources)):
        name, data_set = escape(source), source.split(":")[0]
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", data_set) and not Path(source).exists()
        shown = f'<a href="{HUB}/datasets/{data_set}" target="_blank" rel="noopener">{name}</a>' if on_hub else name
        items.append(f"<li>Calibration problems: {shown}</li>")
    return f"<section><h2>Models and data</h2><ul>{''.join(items)}</ul></section>"


def _track(share: float) -> str:
    return f'<span class="track" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'


def _side_by_side(sections: Sequence[str]) -> str:
    return f'<div class="results">{"".join(sections)}</div>'


def _image(path: Path, description: str) -> None:
    gr.Image(
        str(path),
        format="png",
        show_label=False,
        alt_text=description,
        interactive=False,
        buttons=[],
        min_width=520,
        elem_classes="plot",
        container=False,
    )
