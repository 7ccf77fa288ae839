"""The report of a study: JSON, tables in Markdown, and one HTML page that needs nothing else."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.intervals import format_difference, format_share
from ..likelihood import format_rise
from .cells import Cell, bands_of
from .labels import describe_errors, label_method, label_target
from .statistics import StudyReport, make_report


Table = list[tuple[str, ...]]
_ERRORS = "± is the standard error, in parentheses are 95 % intervals,"
_LOW_BY_CHANCE = (
    "The lowest of several numbers is low by chance, too, the more so the fewer problems there are of a kind; its error does "
    "not know that it was chosen."
)


@dataclass(frozen=True)
class Section:
    """A part of the report; what is empty is left out.

    Args:
        heading: Its heading.
        text: A paragraph.
        findings: Points of a list.
        table: Heads and rows.
        plots: Names of plots.
    """

    heading: str
    text: str = ""
    findings: Sequence[str] = ()
    table: Table | None = None
    plots: Sequence[str] = ()


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { overflow-wrap: anywhere; }
p, li { max-width: 60rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .5rem; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
.wide, figure { overflow-x: auto; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; min-width: 28rem; background: #fff; }
figcaption { font-size: 13px; max-width: 60rem; opacity: .8; }
pre { background: #8882; padding: .7rem; overflow-x: auto; font-size: 12px; }
"""


def write_report(
    settings: Mapping[str, Any], dense: Mapping[str, Any], results: Mapping[Cell, Any], folder: Path
) -> StudyReport:
    """Write `report.json`, `report.md`, `report.html` and the folder `plots`.

    Args:
        settings: What was studied.
        dense: Result of the dense model.
        results: Results of the cells.
        folder: Folder to write into.

    Returns:
        The report as it stands in `report.json`.
    """
    from .plots import plot_study  # with matplotlib, which a table for the terminal does without

    report = make_report(settings, dense, results)
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    captions = plot_study(report, folder / "plots")
    (folder / "report.md").write_text(as_markdown(report, captions))
    (folder / "report.html").write_text(as_html(report, captions, folder / "plots"))
    return report


def summarize_report(report: StudyReport) -> str:
    """Lay out accuracy on the first problem set and what differs on it, for a terminal."""
    problems, targets = next(iter(report.settings["sets"])), report.settings["targets"]
    if len(targets) == 1:  # there is room for more than accuracy
        table = model_table(report, problems)
        found = [
            f"{method}, {first} - {second}: {difference} points"
            for bands in (False, True)
            for method, first, second, difference in difference_table(report, problems, bands)[1:]
        ]
    else:
        table = accuracy_table(report, problems)
        found = [*findings(report, problems, False), *findings(report, problems, True)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    found += prediction(report)
    return "\n".join([*lines, *(["", *found] if found else []), "", f"{_ERRORS} over {describe_errors(report)}"])


def model_table(report: StudyReport, problems: str) -> Table:
    """One row per model, the dense one first, of a study with one sparsity or pattern."""
    target = label_target(report.settings["targets"][0])
    table: Table = [
        (
            *(f"pruned to {target}", "calibrated on", "problems solved (%)", "tokens", "truncated (%)"),
            *("trace nll (nats)", "text perplexity"),
        )
    ]
    dense = report.dense["sets"][problems] | {name: value for name, value in report.dense.items() if name != "sets"}
    if "kinds" in dense:
        table = [(*table[0][:3], "worst kind (%)", *table[0][3:])]
    for row in (dense, *(row for row in report.rows if row["problems"] == problems)):
        worst = (_worst(row),) if "kinds" in row else ()
        names = (label_method(row["method"]), row["calibration"] or "-") if row is not dense else ("dense", "-")
        perplexity = "-" if row["text_perplexity"] is None else f"{row['text_perplexity']:.1f}"
        shown = (f"{row['mean_tokens']:.0f}", f"{100 * row['truncated']:.1f}", _risen(row), perplexity)
        table.append((*names, _solved(row), *worst, *shown))
    return table


def accuracy_table(report: StudyReport, problems: str) -> Table:
    """Problems solved, in percent with errors: one row per method and strategy, one column per target."""
    return _by_target(report, problems, _solved)


def worst_kind_table(report: StudyReport, problems: str) -> Table:
    """The kind of problem that each model solves the fewest of, with their share in percent."""
    return _by_target(report, problems, _worst)


def kind_table(report: StudyReport, problems: str) -> Table:
    """Problems of each kind solved, in percent: one row per method, strategy and kind, one column per target."""
    dense, targets = report.dense["sets"][problems]["kinds"], report.settings["targets"]
    table: Table = [("method", "calibrated on", "kind", "n", "dense", *map(label_target, targets))]
    found = {(row["method"], row["calibration"], row["target"]): row for row in report.rows if row["problems"] == problems}
    for method, calibration in dict.fromkeys(key[:2] for key in found):
        for kind, of in dense.items():
            cells = (_solved(found[method, calibration, target]["kinds"][kind]) for target in targets)
            names = (label_method(method), calibration or "-", kind)
            table.append((*names, str(of["problems"]), _solved(of), *cells))
    return table


def behaviour_table(report: StudyReport, problems: str) -> Table:
    """Mean tokens and the shares of truncated and looping responses, in percent."""

    def cell(row: dict[str, Any]) -> str:
        return f"{row['mean_tokens']:.0f} / {100 * row['truncated']:.1f} / {100 * row['looping']:.1f}"

    return _by_target(report, problems, cell)


def trace_table(report: StudyReport) -> Table:
    """Rise of the negative log-likelihood of the dense model's traces, in nats per token."""
    return _by_target(report, next(iter(report.settings["sets"])), _risen)


def prediction(report: StudyReport) -> list[str]:
    """Say how well trace perplexity ranks the pruned models as accuracy does."""
    return [
        f"rank correlation (Spearman) of the rise with problems solved on {name}, over {report.prediction['cells']} pruned "
        f"models: {value:.2f}"
        for name, value in (report.prediction or {"spearman": {}})["spearman"].items()
        if value is not None
    ]


def perplexity_table(report: StudyReport) -> Table:
    """Perplexity on general text."""
    return _by_target(report, next(iter(report.settings["sets"])), lambda row: f"{row['text_perplexity']:.2f}")


def difference_table(report: StudyReport, problems: str, bands: bool) -> Table:
    """Paired differences in points, with 95 % confidence intervals: between strategies, or between bands."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for item in _differences(report, problems, bands):
        cells = found.setdefault((item["method"], item["first"], item["second"]), {})
        noise = "" if _sign(item) else " ~"
        cells[item["target"]] = format_difference(item["difference"], item["ci95"]) + noise
    targets = report.settings["targets"]
    table: Table = [("method", "calibrated on", "minus", *map(label_target, targets))]
    for (method, first, second), cells in found.items():
        table.append((label_method(method), first, second, *(cells[target] for target in targets)))
    return table


def findings(report: StudyReport, problems: str, bands: bool) -> list[str]:
    """Say of every pair of strategies, or of bands, how often either is better, and how often that cannot be told."""
    found: dict[tuple[str, str], list[int]] = {}
    for item in _differences(report, problems, bands):
        found.setdefault((item["first"], item["second"]), []).append(_sign(item))
    return [
        f"{first} against {second}: more problems solved in {signs.count(1)} of {len(signs)} comparisons, "
        f"fewer in {signs.count(-1)}, inside the noise in {signs.count(0)}"
        for (first, second), signs in found.items()
    ]


def precision(report: StudyReport, problems: str, bands: bool) -> str:
    """Say what differences can be told from noise, and how many would pass for one by chance."""
    items = _differences(report, problems, bands)
    halves = sorted(100 * (item["ci95"][1] - item["ci95"][0]) / 2 for item in items)
    return (
        f"A difference is inside the noise (~) if its interval holds 0. The intervals reach {halves[0]:.1f} to "
        f"{halves[-1]:.1f} points to either side, {halves[len(halves) // 2]:.1f} in the middle. Of {len(items)} comparisons "
        f"between equals, {0.05 * len(items):.1f} would be outside the noise by chance."
    )


def calibration_table(report: StudyReport) -> Table:
    """What the calibration sets were made of, as means over seeds."""
    table: Table = [("calibrated on", "sequences", "tokens", "tokens in a sequence", "pass rate", "outside the windows")]
    seen = {row["calibration"]: row["calibrated_on"] for row in report.rows if row["calibration"]}
    for name, made in seen.items():
        rate = "-" if made["pass_rate"] is None else f"{made['pass_rate']:.2f}"
        sizes = (f"{made['sequences']:.0f}", f"{made['tokens']:,.0f}", f"{made['mean_tokens']:.0f}")
        table.append((name, *sizes, rate, f"{100 * made['outside_windows']:.0f} %"))
    return table


def sections(report: StudyReport) -> list[Section]:
    """Return the report's parts."""
    sets, bands = list(report.settings["sets"]), report.settings["bands"]
    over = describe_errors(report)
    paired = f"Differences in problems solved, paired by problem and seed, in points, with 95 % intervals over {over}."
    parts = []
    for number, problems in enumerate(sets):
        end, domain = ("", "") if number == 0 else ("-transfer", ", another domain")
        dense = report.dense["sets"][problems]
        solved = (
            f"Problems solved, in percent; {_ERRORS} over {over}. The dense model solves {_solved(dense)} of "
            f"{dense['problems']:,} with {dense['mean_tokens']:.0f} tokens, {100 * dense['truncated']:.1f} % truncated."
        )
        table = accuracy_table(report, problems)
        parts.append(Section(f"Accuracy on {problems}{domain}", solved, table=table, plots=(f"accuracy{end}",)))
        if "kinds" in dense:
            told = f"The kind of problem that the dense model solves the fewest of is {_worst(dense)}. {_LOW_BY_CHANCE}"
            parts.append(Section("Worst kind", told, table=worst_kind_table(report, problems)))
            told = f"Problems of each kind solved, in percent; {_ERRORS} over {over}."
            parts.append(Section("By kind of problem", told, table=kind_table(report, problems)))
        if _differences(report, problems, False):
            told = f"{paired} {precision(report, problems, False)}"
            table = difference_table(report, problems, False)
            parts.append(Section("Differences", told, findings(report, problems, False), table))
        told = "Mean tokens / truncated % / verbatim loops %."
        table = behaviour_table(report, problems)
        parts.append(Section("Length, truncation and loops", told, table=table, plots=(f"behaviour{end}",)))
        if bands:
            told = f"Correct traces cut into thirds, at equal numbers of tokens. {paired} {precision(report, problems, True)}"
            table = difference_table(report, problems, True)
            plots = tuple(f"bands-{quantity}{end}" for quantity in bands)
            parts.append(Section("Difficulty and length of the traces", told, findings(report, problems, True), table, plots))
    if report.prediction is not None:
        told = (
            f"How much less likely a pruned model finds {report.dense['traces']} right responses of the dense model to "
            "evaluation problems: rise of their negative log-likelihood, in nats per token, paired by trace; ± is the standard "
            f"error over traces and seeds. The dense model has {report.dense['trace_nll']:.3f}. Lower is better; a proxy for "
            "accuracy, which is not accuracy:"
        )
        parts.append(Section("Trace perplexity", told, prediction(report), trace_table(report)))
    if report.dense["text_perplexity"] is not None:
        told = f"The dense model has {report.dense['text_perplexity']:.2f}."
        parts.append(Section("Perplexity on general text", told, table=perplexity_table(report)))
    table = calibration_table(report)
    if len(table) > 1:
        parts.append(Section("What was calibrated on", "Means over seeds.", table=table))
    parts.append(Section("Reconstruction error", plots=("reconstruction",)))
    return parts


def as_markdown(report: StudyReport, captions: Mapping[str, str]) -> str:
    """Write the report as Markdown, with the plots beside it."""
    lines = [f"# Study of {report.settings['model']}", ""]
    for part in sections(report):
        lines += [f"## {part.heading}", "", *([part.text, ""] if part.text else [])]
        if part.findings:
            lines += [*(f"- {finding}" for finding in part.findings), ""]
        if part.table:
            rule = ["---" if text else "---:" for text in _text_columns(part.table)]
            rows = ((cell.replace("|", "\\|") for cell in row) for row in (part.table[0], rule, *part.table[1:]))
            lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
        for name in part.plots:
            lines += [f"![{captions[name]}](plots/{name}.png)", "", captions[name], ""]
    return "\n".join([*lines, "## Settings", "", "```json", json.dumps(report.settings, indent=1), "```", ""])


def as_html(report: StudyReport, captions: Mapping[str, str], plots: Path) -> str:
    """Write the report as one HTML page with the plots inside; it asks no other server for anything."""
    title = html.escape(f"Study of {report.settings['model']}")
    body = [f"<h1>{title}</h1>"]
    for part in sections(report):
        body.append(f"<h2>{html.escape(part.heading)}</h2>")
        body.append(f"<p>{html.escape(part.text)}</p>" if part.text else "")
        if part.findings:
            body.append("<ul>" + "".join(f"<li>{html.escape(finding)}</li>" for finding in part.findings) + "</ul>")
        if part.table:
            texts = _text_columns(part.table)
            body.append(f'<div class="wide"><table>{_html_row(part.table[0], texts, "th")}')
            body += [*(_html_row(row, texts, "td") for row in part.table[1:]), "</table></div>"]
        for name in part.plots:
            picture = base64.b64encode((plots / f"{name}.svg").read_bytes()).decode()
            caption = html.escape(captions[name])
            body.append(f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{picture}">')
            body.append(f"<figcaption>{caption}</figcaption></figure>")
    settings = html.escape(json.dumps(report.settings, indent=1))
    body.append(f"<h2>Settings</h2><pre>{settings}</pre>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return "\n".join(
        [f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>', *body, "</body></html>\n"]
    )


def _differences(report: StudyReport, problems: str, bands: bool) -> list[dict[str, Any]]:
    """Those on one problem set between bands, or between strategies."""
    named = set(bands_of(report.settings["bands"]))
    return [item for item in report.differences if item["problems"] == problems and (item["first"] in named) == bands]


def _sign(difference: dict[str, Any]) -> int:
    """1 or -1 for a difference outside the noise, 0 for one whose interval holds 0."""
    low, high = difference["ci95"]
    return int(low > 0) - int(high < 0)


def _solved(row: dict[str, Any]) -> str:
    return format_share(row["accuracy"], row["accuracy_se"], row["accuracy_ci95"], unit="", sign="±")


def _worst(row: dict[str, Any]) -> str:
    return f"{row['worst_kind']} {_solved(row['kinds'][row['worst_kind']])}"


def _risen(row: dict[str, Any]) -> str:
    if "trace_nll_rise" in row:
        return format_rise(row, "±")
    return f"{row['trace_nll']:.3f}" if "trace_nll" in row else "-"


def _by_target(report: StudyReport, problems: str, cell: Any) -> Table:
    targets = report.settings["targets"]
    table: Table = [("method", "calibrated on", *map(label_target, targets))]
    found = {(row["method"], row["calibration"], row["target"]): row for row in report.rows if row["problems"] == problems}
    for method, calibration in dict.fromkeys(key[:2] for key in found):
        cells = (cell(found[method, calibration, target]) for target in targets)
        table.append((label_method(method), calibration or "-", *cells))
    return table


def _text_columns(table: Table) -> list[bool]:
    """Tell which columns hold words, which are set flush left, rather than numbers."""
    return [any(cell[0].isalpha() for cell in column) for column in zip(*table[1:], strict=True)]


def _html_row(cells: Sequence[str], texts: Sequence[bool], tag: str) -> str:
    columns = zip(cells, texts, strict=True)
    return "<tr>" + "".join(f"<{tag}{' class=text' * text}>{html.escape(cell)}</{tag}>" for cell, text in columns) + "</tr>"
