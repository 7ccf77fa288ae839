"""The report of a study: JSON, tables in Markdown, and one HTML page that needs nothing else."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .study import Cell, bands_of, make_report
from .study_plots import METHODS, plot_study, target_label


Table = list[tuple[str, ...]]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; }
figcaption { color: #555; font-size: 13px; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: 12px; }
"""


def write_report(
    settings: Mapping[str, Any], dense: Mapping[str, Any], results: Mapping[Cell, Any], folder: Path
) -> dict[str, Any]:
    """Write `report.json`, `report.md`, `report.html` and the folder `plots`.

    Args:
        settings: What was studied.
        dense: Result of the dense model.
        results: Results of the cells.
        folder: Folder to write into.

    Returns:
        The report as it stands in `report.json`.
    """
    report = make_report(settings, dense, results)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    captions = plot_study(report, folder / "plots")
    (folder / "report.md").write_text(as_markdown(report, captions))
    (folder / "report.html").write_text(as_html(report, captions, folder / "plots"))
    return report


def summary(report: dict[str, Any]) -> str:
    """Lay out accuracy on the first problem set, for a terminal."""
    table = accuracy_table(report, next(iter(report["settings"]["sets"])))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def accuracy_table(report: dict[str, Any], problems: str) -> Table:
    """Problems solved, in percent with standard errors: one row per method and strategy, one column per target."""
    return _by_target(report, problems, lambda row: f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_se']:.1f}")


def behaviour_table(report: dict[str, Any], problems: str) -> Table:
    """Mean tokens and the shares of truncated and looping responses, in percent."""

    def cell(row: dict[str, Any]) -> str:
        return f"{row['mean_tokens']:.0f} / {100 * row['truncated']:.1f} / {100 * row['looping']:.1f}"

    return _by_target(report, problems, cell)


def perplexity_table(report: dict[str, Any]) -> Table:
    """Perplexity on general text."""
    return _by_target(report, next(iter(report["settings"]["sets"])), lambda row: f"{row['text_perplexity']:.2f}")


def difference_table(report: dict[str, Any], problems: str, bands: bool) -> Table:
    """Paired differences in points, with 95 % confidence intervals: between strategies, or between bands."""
    named = set(bands_of(report["settings"]["sweeps"]))
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for item in report["differences"]:
        if item["problems"] == problems and (item["first"] in named) == bands:
            low, high = (100 * end for end in item["ci95"])
            cells = found.setdefault((item["method"], item["first"], item["second"]), {})
            cells[item["target"]] = f"{100 * item['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    targets = report["settings"]["targets"]
    table: Table = [("method", "calibrated on", "minus", *map(target_label, targets))]
    for (method, first, second), cells in found.items():
        table.append((METHODS[method], first, second, *(cells[target] for target in targets)))
    return table


def calibration_table(report: dict[str, Any]) -> Table:
    """What the calibration sets were made of, as means over seeds."""
    table: Table = [("calibrated on", "sequences", "tokens", "tokens in a sequence", "pass rate", "outside the windows")]
    seen = {row["calibration"]: row["calibrated_on"] for row in report["rows"] if row["calibration"]}
    for name, made in seen.items():
        rate = "-" if made["pass_rate"] is None else f"{made['pass_rate']:.2f}"
        sizes = (f"{made['sequences']:.0f}", f"{made['tokens']:,.0f}", f"{made['mean_tokens']:.0f}")
        table.append((name, *sizes, rate, f"{100 * made['outside_windows']:.0f} %"))
    return table


def sections(report: dict[str, Any]) -> list[tuple[str, str, Table, list[str]]]:
    """Return the report's parts: heading, sentence, table and names of plots."""
    sets, sweeps = list(report["settings"]["sets"]), report["settings"]["sweeps"]
    parts = []
    for number, problems in enumerate(sets):
        end, domain = ("", "") if number == 0 else ("-transfer", ", another domain")
        dense = report["dense"]["sets"][problems]
        solved = (
            f"Problems solved, in percent ± standard error over problems and seeds. The dense model solves "
            f"{100 * dense['accuracy']:.1f} ± {100 * dense['accuracy_se']:.1f} of {dense['problems']:,} with "
            f"{dense['mean_tokens']:.0f} tokens, {100 * dense['truncated']:.1f} % truncated."
        )
        parts.append((f"Accuracy on {problems}{domain}", solved, accuracy_table(report, problems), [f"accuracy{end}"]))
        told = "Paired by problem and seed, in points, with 95 % intervals."
        parts.append(("Differences", told, difference_table(report, problems, False), []))
        parts.append(
            (
                "Length, truncation and loops",
                "Mean tokens / truncated % / verbatim loops %.",
                behaviour_table(report, problems),
                [f"behaviour{end}"],
            )
        )
        if sweeps:
            told = (
                "Correct traces cut into thirds, at equal numbers of tokens; differences paired by problem and seed, in points."
            )
            plots = [f"sweep-{sweep}{end}" for sweep in sweeps]
            parts.append(("Difficulty and length of the traces", told, difference_table(report, problems, True), plots))
    if report["dense"]["text_perplexity"] is not None:
        told = f"The dense model has {report['dense']['text_perplexity']:.2f}."
        parts.append(("Perplexity on general text", told, perplexity_table(report), []))
    parts.append(("What was calibrated on", "Means over seeds.", calibration_table(report), []))
    parts.append(("Reconstruction error", "", [], ["reconstruction"]))
    return [part for part in parts if part[3] or len(part[2]) > 1]


def as_markdown(report: dict[str, Any], captions: Mapping[str, str]) -> str:
    """Write the report as Markdown, with the plots beside it."""
    lines = [f"# Study of {report['settings']['model']}", ""]
    for heading, sentence, table, plots in sections(report):
        lines += [f"## {heading}", "", *([sentence, ""] if sentence else [])]
        if table:
            lines += ["| " + " | ".join(row) + " |" for row in (table[0], ("---",) * len(table[0]), *table[1:])] + [""]
        for name in plots:
            lines += [f"![{captions[name]}](plots/{name}.png)", "", captions[name], ""]
    return "\n".join([*lines, "## Settings", "", "```json", json.dumps(report["settings"], indent=1), "```", ""])


def as_html(report: dict[str, Any], captions: Mapping[str, str], plots: Path) -> str:
    """Write the report as one HTML page with the plots inside; it asks no other server for anything."""
    title = html.escape(f"Study of {report['settings']['model']}")
    body = [f"<h1>{title}</h1>"]
    for heading, sentence, table, names in sections(report):
        body.append(f"<h2>{html.escape(heading)}</h2>")
        body.append(f"<p>{html.escape(sentence)}</p>" if sentence else "")
        if table:
            body.append(f'<div class="wide"><table>{_html_row(table[0], "th")}')
            body += [*(_html_row(row, "td") for row in table[1:]), "</table></div>"]
        for name in names:
            picture = base64.b64encode((plots / f"{name}.svg").read_bytes()).decode()
            caption = html.escape(captions[name])
            body.append(f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{picture}">')
            body.append(f"<figcaption>{caption}</figcaption></figure>")
    settings = html.escape(json.dumps(report["settings"], indent=1))
    body.append(f"<h2>Settings</h2><pre>{settings}</pre>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return "\n".join(
        [f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>', *body, "</body></html>\n"]
    )


def _by_target(report: dict[str, Any], problems: str, cell: Any) -> Table:
    targets = report["settings"]["targets"]
    table: Table = [("method", "calibrated on", *map(target_label, targets))]
    found = {(row["method"], row["calibration"], row["target"]): row for row in report["rows"] if row["problems"] == problems}
    for method, calibration in dict.fromkeys(key[:2] for key in found):
        cells = (cell(found[method, calibration, target]) for target in targets)
        table.append((METHODS[method], calibration or "-", *cells))
    return table


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
