"""Figures of a study, as SVG and as PNG."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..calibration.plots import lay_out
from ..evaluation.intervals import student_quantile
from .cells import BANDS, bands_of
from .labels import describe_errors, label_method, label_target
from .statistics import StudyReport


# Okabe and Ito's palette, told apart by readers with any colour vision; markers tell the lines apart without colour.
STYLES: dict[str | None, tuple[str, str, str]] = {
    "ssgr": ("#0072B2", "o", "selected own traces (ssgr)"),
    "cover": ("#44AA99", "p", "own traces of every kind (cover)"),
    "cover+damage": ("#882255", "H", "the most damaged of every kind (cover+damage)"),
    "self": ("#56B4E9", "s", "correct own traces (self)"),
    "rac": ("#009E73", "^", "any own traces (rac)"),
    "resp": ("#CC79A7", "v", "own responses (resp)"),
    "obc": ("#D55E00", "D", "right and wrong pairs (obc)"),
    "mix": ("#F0E442", "P", "traces and text (mix)"),
    "prompts": ("#000000", "X", "questions alone (prompts)"),
    "text": ("#E69F00", "*", "general text (text)"),
    None: ("#777777", "h", "no calibration"),
}
TARGETS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
DENSE = "#555555"
Bar = tuple[float, float, float]  # a height, and how far its error bar reaches below and above
LOOK = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "ssgr",  # the same picture has the same bytes
    "svg.fonttype": "path",
}


def plot_study(report: StudyReport, folder: Path) -> dict[str, str]:
    """Draw every figure that the report has numbers for.

    Args:
        report: What `make_report` returns.
        folder: Folder for the SVG and PNG files; made.

    Returns:
        A caption by the file's name without its ending.
    """
    folder.mkdir()
    drawn: dict[str, str] = {}

    def save(name: str, figure: Figure, caption: str) -> None:
        lay_out(figure)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
        drawn[name] = caption

    bars = f"Bars are 95 % intervals over {describe_errors(report)}."
    several = any(row["seeds"] > 1 for row in report.rows)
    over_seeds = " Bars are 95 % intervals over calibration seeds." if several else ""
    with rc_context(LOOK):
        for number, problems in enumerate(report.settings["sets"]):
            end = "" if number == 0 else "-transfer"
            count = report.dense["sets"][problems]["problems"]
            where = f"{count:,} problems of {problems}{'' if number == 0 else ', another domain'}"
            save(f"accuracy{end}", plot_accuracy(report, problems), f"Accuracy against sparsity on {where}. {bars}")
            caption = f"Length and truncation against sparsity on {where}.{over_seeds}"
            save(f"behaviour{end}", plot_length(report, problems), caption)
            for quantity in report.settings["bands"]:
                caption = f"Accuracy by the {quantity} of the traces that were calibrated on, on {where}. {bars}"
                save(f"bands-{quantity}{end}", plot_bands(report, problems, quantity), caption)
        save(
            "reconstruction",
            plot_reconstruction(report),
            "Squared difference from the dense model's hidden states behind every layer, on its own right answers to "
            f"evaluation problems, as a share of their squared size.{over_seeds}",
        )
    return drawn


def plot_accuracy(report: StudyReport, problems: str) -> Figure:
    """Draw accuracy against sparsity by strategy, one panel per method, with error bars."""
    figure, axes = _panels(report, 1)
    dense = report.dense["sets"][problems]
    for axis in axes[0]:
        low, high = dense["accuracy_ci95"]
        axis.axhspan(100 * low, 100 * high, color=DENSE, alpha=0.12, linewidth=0)
        axis.axhline(100 * dense["accuracy"], color=DENSE, linestyle="--", linewidth=1, label="dense")
    _lines(report, problems, axes[0], _solved)
    axes[0][0].set_ylabel("problems solved (%)")
    axes[0][0].set_ylim(-2, min(axes[0][0].get_ylim()[1] + 3, 103))
    _legend(figure, axes)
    return figure


def plot_length(report: StudyReport, problems: str) -> Figure:
    """Draw mean length and the share of truncated responses against sparsity, one column per method."""
    figure, axes = _panels(report, 2)
    dense = report.dense["sets"][problems]
    for row_axes, name, scale, text in zip(
        axes, ("mean_tokens", "truncated"), (1, 100), ("tokens in a response", "truncated (%)"), strict=True
    ):
        for axis in row_axes:
            axis.axhline(scale * dense[name], color=DENSE, linestyle="--", linewidth=1, label="dense")

        def value(row: dict[str, Any], name: str = name, scale: int = scale) -> Bar:
            half = scale * _half_width(row[f"{name}_se"], row["seeds"])
            return scale * row[name], half, half

        _lines(report, problems, row_axes, value)
        row_axes[0].set_ylabel(text)
        top = 1.05 * max(row_axes[0].get_ylim()[1], 1)  # where nothing is truncated, too
        row_axes[0].set_ylim(-0.02 * top, top)
    for axis in axes[0]:
        axis.set_xlabel("")
    for axis in axes[1]:
        axis.set_title("")
    _legend(figure, axes)
    return figure


def plot_bands(report: StudyReport, problems: str, quantity: str) -> Figure:
    """Draw accuracy by band of difficulty or length, one line per sparsity or pattern."""
    names = bands_of([quantity])
    rows = [row for row in report.rows if row["problems"] == problems and row["calibration"] in names]
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axis = figure.subplots()
    for number, target in enumerate(report.settings["targets"]):
        found = {row["calibration"]: row for row in rows if row["target"] == target}
        heights, below, above = zip(*(_solved(found[name]) for name in names), strict=True)
        axis.errorbar(
            [place + 0.04 * (number - len(report.settings["targets"]) / 2) for place in range(len(names))],
            heights,
            (below, above),
            color=TARGETS[number % len(TARGETS)],
            marker="osv^DPX*"[number % 8],
            markersize=5,
            linewidth=1.4,
            elinewidth=1,
            capsize=2,
            label=label_target(target),
        )
    by = {row["calibration"]: row["calibrated_on"] for row in rows}
    if quantity == "difficulty":
        made = [f"pass rate {by[name]['pass_rate']:.2f}" for name in names]
    else:
        made = [f"{by[name]['mean_tokens']:.0f} tokens" for name in names]
    axis.set_xticks(range(len(names)), [f"{band}\n{text}" for band, text in zip(BANDS[quantity], made, strict=True)])
    axis.set_xlabel("traces calibrated on")
    axis.set_ylabel("problems solved (%)")
    axis.set_title(label_method(rows[0]["method"]), fontsize=10)
    axis.grid(axis="x", visible=False)
    axis.margins(x=0.12)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -2), min(high, 103))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", title="removed")
    return figure


def plot_reconstruction(report: StudyReport) -> Figure:
    """Draw the error of hidden states by layer and strategy, one panel per method, at the sparsity nearest to one half."""
    targets = [target for target in report.settings["targets"] if ":" not in target] or report.settings["targets"]
    target = min(targets, key=lambda name: 0 if ":" in name else abs(float(name) - 0.5))
    figure, axes = _panels(report, 1)
    for axis, method in zip(axes[0], report.settings["methods"], strict=True):
        for name in (*report.settings["strategies"], None):
            for found in report.reconstruction:
                if (found["method"], found["target"], found["calibration"]) == (method, target, name):
                    layers = range(1, len(found["errors"]) + 1)
                    halves = [_half_width(error, found["seeds"]) for error in found["se"]]
                    axis.errorbar(layers, found["errors"], halves, **_style(name))
        axis.set_yscale("log")
        axis.set_xlabel("layer")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(f"{label_method(method)}, {label_target(target)}", fontsize=10)
    axes[0][0].set_ylabel("relative squared error")
    _legend(figure, axes)
    return figure


def _solved(row: dict[str, Any]) -> Bar:
    """Problems solved in percent, with the 95 % interval."""
    level = 100 * row["accuracy"]
    low, high = (100 * end for end in row["accuracy_ci95"])
    return level, max(level - low, 0.0), max(high - level, 0.0)


def _half_width(error: float | None, seeds: int) -> float:
    """Half of the 95 % interval of a mean over seeds; NaN, which draws no bar, for a single seed."""
    return math.nan if error is None else student_quantile(seeds - 1) * error


def _panels(report: StudyReport, rows: int) -> tuple[Figure, Any]:
    methods = report.settings["methods"]
    size = (max(4.6, 2.7 * len(methods) + 0.6), 2.7 * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, len(methods), sharey="row", squeeze=False)


def _lines(
    report: StudyReport,
    problems: str,
    axes: Sequence[Axes],
    value: Callable[[dict[str, Any]], Bar],
) -> None:
    """Draw one line per strategy over the sparsities, and markers apart from it over the patterns."""
    targets = report.settings["targets"]
    places = {target: place for place, target in enumerate(targets)}
    for axis, method in zip(axes, report.settings["methods"], strict=True):
        names = [*report.settings["strategies"], None]
        for number, name in enumerate(names):
            rows = [
                row for row in report.rows if (row["method"], row["calibration"], row["problems"]) == (method, name, problems)
            ]
            shift = 0.06 * (number - (len(names) - 2) / 2) if name else 0
            style = _style(name)
            for pattern in (False, True):
                chosen = [row for row in rows if (":" in row["target"]) == pattern]
                if chosen:
                    heights, below, above = zip(*map(value, chosen), strict=True)
                    style["linestyle"] = "none" if pattern else "-"
                    axis.errorbar([places[row["target"]] + shift for row in chosen], heights, (below, above), **style)
                    style["label"] = None
        axis.set_xticks(range(len(targets)), list(map(label_target, targets)))
        axis.set_xlim(-0.5, len(targets) - 0.5)
        axis.set_xlabel("weights removed")
        axis.set_title(label_method(method), fontsize=10)
        axis.grid(axis="x", visible=False)


def _style(name: str | None) -> dict[str, Any]:
    colour, marker, text = STYLES[name]
    size = 7 if marker == "*" else 4.5
    lines = {"color": colour, "marker": marker, "markersize": size, "linewidth": 1.4, "elinewidth": 1, "capsize": 2}
    return lines | {"label": text}


def _legend(figure: Figure, axes: Any) -> None:
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    rows = math.ceil(len(entries) / int(figure.get_size_inches()[0] / 2))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=math.ceil(len(entries) / rows))
