"""The cells of a study, and its report over made-up results whose numbers are known."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from optimum_ssgr.errors import ConfigError
from optimum_ssgr.evaluation.intervals import estimate_difference
from optimum_ssgr.study.cells import Cell, bands_of, study_cells
from optimum_ssgr.study.report import (
    accuracy_table,
    difference_table,
    findings,
    kind_table,
    sections,
    summarize_report,
    worst_kind_table,
    write_report,
)
from optimum_ssgr.study.statistics import make_report, rank_correlation


SETTINGS = {
    "model": "me/<model>",
    "strategies": ["text", "ssgr", "self", "rac", "prompts"],
    "methods": ["magnitude", "sparsegpt", "wanda", "alps"],
    "targets": ["0.3", "0.4", "0.5", "0.6", "0.7", "2:4"],
    "bands": ["difficulty", "length"],
    "sets": {"known": 200, "other": 200},
}
STRENGTH = {"ssgr": 0.3, "self": 0.27, "rac": 0.25, "prompts": 0.1, "text": 0.05, None: 0.0}


def summary_of(correct, tokens, truncated):
    shares = {"truncated": truncated, "missing_think_end": truncated, "looping": truncated / 2}
    lengths = {"mean_tokens": tokens, "median_tokens": tokens, "p95_tokens": 2 * tokens}
    counts = {"problems": len(correct), "samples": len(correct)}
    return counts | {"accuracy": float(np.mean(correct)), "accuracy_se": 0.01} | lengths | shares


def result(rng, target, calibration):
    removed = 0.55 if ":" in target else float(target)
    strength = STRENGTH.get(calibration, 0.2)
    rate = 1 / (1 + np.exp(20 * (removed - 0.35 - strength)))
    correct = (rng.random((2, 200)) < rate).astype(float).tolist()
    made = {"sequences": 60, "tokens": 12000, "mean_tokens": 200.0, "pass_rate": 0.5, "outside_windows": 0.0}
    sets = {
        name: {"summary": summary_of(found, 90 + 200 * (1 - rate), 0.5 * (1 - rate)), "correct": found}
        for name, found in zip(SETTINGS["sets"], correct, strict=True)
    }
    errors = [0.02 * removed * layer * (1.2 - strength) + 0.001 * rng.random() for layer in range(1, 9)]
    return {
        "sets": sets,
        "errors": errors,
        "sparsity": removed,
        "text_perplexity": 12 + 10 * strength,
        "calibration": made if calibration else None,
        "trace_nll": (0.2 + 0.1 * rng.random(16) + (0 if target == "0" else 1 - rate)).tolist(),
    }


@pytest.fixture(scope="module")
def results():
    rng = np.random.default_rng(0)
    grid = [SETTINGS[name] for name in ("strategies", "methods", "targets")]
    dense = result(rng, "0", "ssgr")
    cells = study_cells(*grid, range(3), SETTINGS["bands"])
    return dense, {cell: result(rng, cell.target, cell.calibration) for cell in cells}


def test_cells():
    cells = list(study_cells(["ssgr", "text"], ["magnitude", "wanda", "alps"], ["0.5", "2:4"], range(5, 7), ["length"]))
    assert len(set(cells)) == len(cells) == len({cell.name for cell in cells})
    by = {method: [cell for cell in cells if cell.method == method] for method in ("magnitude", "wanda", "alps")}
    assert {cell.calibration for cell in by["magnitude"]} == {None}
    assert len(by["magnitude"]) == 2  # one a target: it does not depend on a seed
    assert {cell.calibration for cell in by["wanda"]} == {"ssgr", "text", *bands_of(["length"])}
    assert len(by["wanda"]) == 2 * 2 * 5
    assert len(by["alps"]) == 2 * 2 * 2
    assert {cell.seed for cell in by["alps"]} == {5, 6}
    assert Cell("wanda", "2:4", "ssgr", 0).pruning.n_of_m == (2, 4)
    with pytest.raises(ConfigError, match="below 1"):
        _ = Cell("wanda", "1.5", "ssgr", 0).pruning


def test_rows_and_differences_are_paired_by_problem_and_seed(results):
    dense, cells = results
    report = make_report(SETTINGS, dense, cells)
    assert len(report.rows) == 2 * 6 * (1 + 3 * 5 + 6)
    key = ("wanda", "0.5")
    scores = {
        name: np.array([cells[Cell(*key, name, seed)]["sets"]["other"]["correct"] for seed in range(3)])
        for name in ("ssgr", "text")
    }
    (row,) = (
        row
        for row in report.rows
        if (row["method"], row["target"], row["calibration"], row["problems"]) == (*key, "ssgr", "other")
    )
    assert row["accuracy"] == pytest.approx(scores["ssgr"].mean())
    assert row["accuracy_by_seed"] == pytest.approx(scores["ssgr"].mean(axis=1))
    assert (row["seeds"], row["n"], row["samples"]) == (3, 200, 1)
    tokens = [cells[Cell(*key, "ssgr", seed)]["sets"]["other"]["summary"]["mean_tokens"] for seed in range(3)]
    assert row["mean_tokens"] == pytest.approx(np.mean(tokens))
    assert row["mean_tokens_se"] == pytest.approx(np.std(tokens, ddof=1) / np.sqrt(3))

    (found,) = (
        item
        for item in report.differences
        if (item["method"], item["target"], item["first"], item["second"], item["problems"]) == (*key, "ssgr", "text", "other")
    )
    paired = scores["ssgr"] - scores["text"]
    over_problems = paired.mean(axis=0).std(ddof=1) / np.sqrt(200)
    over_seeds = paired.mean(axis=1).std(ddof=1) / np.sqrt(3)
    assert found["difference"] == pytest.approx(paired.mean())
    assert found["se"] == pytest.approx(np.hypot(over_problems, over_seeds))
    low, high = found["ci95"]
    assert (low + high) / 2 == pytest.approx(paired.mean())
    # Of 3 seeds: wider than by the normal quantile, and never wider than Student's with 2 degrees of freedom.
    assert 1.96 < (high - low) / 2 / found["se"] < 4.31
    banded = {(item["first"], item["second"]) for item in report.differences if ":" in item["first"]}
    assert len(banded) == 6
    assert ("difficulty:hardest", "difficulty:easiest") in banded


def test_trace_perplexity_is_paired_by_trace_and_ranks_as_accuracy_does(results):
    dense, cells = results
    report = make_report(SETTINGS, dense, cells)
    key = ("wanda", "0.5")
    row = next(row for row in report.rows if (row["method"], row["target"], row["calibration"]) == (*key, "ssgr"))
    rises = np.array([cells[Cell(*key, "ssgr", seed)]["trace_nll"] for seed in range(3)]) - np.array(dense["trace_nll"])
    over_traces = rises.mean(axis=0).std(ddof=1) / np.sqrt(16)
    over_seeds = rises.mean(axis=1).std(ddof=1) / np.sqrt(3)
    assert (row["traces"], row["trace_nll_rise"]) == (16, pytest.approx(rises.mean()))
    assert row["trace_nll_rise_se"] == pytest.approx(np.hypot(over_traces, over_seeds))
    assert report.dense["trace_nll"] == pytest.approx(np.mean(dense["trace_nll"]))
    assert report.prediction["cells"] == len(cells)
    assert -1 < report.prediction["spearman"]["known"] < -0.8  # both were made from the same rate
    [shown] = (part for part in sections(report) if part.heading == "Trace perplexity")
    place = SETTINGS["targets"].index("0.5")
    [found] = (line[2 + place] for line in shown.table if line[:2] == ("Wanda", "ssgr"))
    assert found == f"{rises.mean():+.3f} ± {np.hypot(over_traces, over_seeds):.3f}"
    ranked = f"with problems solved on known, over {len(cells)} pruned models: {report.prediction['spearman']['known']:.2f}"
    assert ranked in shown.findings[0] and ranked in summarize_report(report)


def test_rank_correlation_with_equals():
    """By hand: ranks 1, 2.5, 2.5, 4 and 4, 2, 3, 1 have a covariance of -4.5, and sums of squares of 4.5 and 5."""
    assert rank_correlation([1, 5, 5, 9], [40, 20, 30, 10]) == pytest.approx(-4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation([1, 2, 3], [10, 20, 400]) == pytest.approx(1)
    assert rank_correlation([1, 1], [2, 3]) is None


def test_findings_count_the_differences_outside_the_noise(results):
    dense, cells = results
    report = make_report(SETTINGS, dense, cells)
    outcomes = Counter()
    for method in ("sparsegpt", "wanda", "alps"):
        for target in SETTINGS["targets"]:
            first, second = (
                np.array([cells[Cell(method, target, name, seed)]["sets"]["known"]["correct"] for seed in range(3)])
                for name in ("ssgr", "self")
            )
            paired = first - second
            low, high = estimate_difference(paired).interval
            outcomes[int(low > 0) - int(high < 0)] += 1
    assert min(outcomes[0], outcomes[1]) > 0  # the made-up results hold both
    assert (
        f"ssgr against self: more problems solved in {outcomes[1]} of 18 comparisons, fewer in {outcomes[-1]}, "
        f"inside the noise in {outcomes[0]}"
    ) in findings(report, "known", False)
    table = difference_table(report, "known", False)
    marked = sum(cell.endswith(" ~") for row in table if row[1:3] == ("ssgr", "self") for cell in row)
    assert marked == outcomes[0]


@pytest.mark.slow
def test_one_seed_says_nothing_of_other_seeds(tmp_path, results):
    """Intervals are over problems alone, and say so; what has no error is drawn and shown without one."""
    settings = SETTINGS | {"strategies": ["ssgr", "text"], "methods": ["wanda"], "targets": ["0.5", "0.7"], "bands": []}
    dense, cells = results
    alone = {cell: of for cell, of in cells.items() if cell.seed == 0 and cell.method == "wanda"}
    alone = {
        cell: of for cell, of in alone.items() if cell.target in settings["targets"] and cell.calibration in ("ssgr", "text")
    }
    report = write_report(settings, dense, alone, tmp_path)
    (row,) = (row for row in report.rows if (row["target"], row["calibration"], row["problems"]) == ("0.5", "ssgr", "known"))
    correct = np.array(cells[Cell("wanda", "0.5", "ssgr", 0)]["sets"]["known"]["correct"])
    assert row["accuracy_se"] == pytest.approx(correct.std(ddof=1) / np.sqrt(200))
    assert row["mean_tokens_se"] is row["truncated_se"] is None
    assert report.reconstruction[0]["seeds"] == 1 and set(report.reconstruction[0]["se"]) == {None}
    told = "over problems alone, as there is one calibration seed"
    assert told in (tmp_path / "report.md").read_text() and told in summarize_report(report)


def test_none_solved_is_shown_with_an_interval(results):
    dense, cells = results
    none = {
        cell: of | {"sets": {name: part | {"correct": [0.0] * 200} for name, part in of["sets"].items()}}
        for cell, of in cells.items()
    }
    report = make_report(SETTINGS, dense, none)
    assert {cell for row in accuracy_table(report, "known")[1:] for cell in row[2:]} == {"0.0 (0.0 to 1.9)"}
    # 1.9: Wilson's of 0 of 200, z^2 / (n + z^2) with 1.97 for z; the exact one is 1.8.
    assert {row[3] for row in difference_table(report, "known", False)[1:]} == {"+0.0 (-1.4 to +1.4) ~"}
    assert (report.rows[0]["accuracy_by_seed"], report.rows[0]["accuracy_se"]) == ([0.0] * report.rows[0]["seeds"], 0)


def test_a_study_with_one_target_tells_of_every_model_in_the_terminal(results):
    dense, cells = results
    settings = SETTINGS | {"strategies": ["ssgr", "text"], "methods": ["wanda"], "targets": ["0.5"], "bands": []}
    chosen = {
        cell: of
        for cell, of in cells.items()
        if (cell.method, cell.target) == ("wanda", "0.5") and cell.calibration in ("ssgr", "text")
    }
    lines = summarize_report(make_report(settings, dense, chosen)).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["dense", "-"], ["Wanda", "text"], ["Wanda", "ssgr"]]
    mean = np.mean([of["sets"]["known"]["correct"] for cell, of in chosen.items() if cell.calibration == "text"])
    assert lines[2].split()[2] == f"{100 * mean:.1f}"
    assert lines[5].startswith("Wanda, ssgr - text: +") and lines[5].endswith(" points")


KINDS = ["sum"] * 120 + ["walk|back"] * 60 + [None] * 20


def with_kinds(dense):
    return dense | {"sets": {name: of | ({"kinds": KINDS} if name == "known" else {}) for name, of in dense["sets"].items()}}


def test_accuracy_by_kind_is_over_the_problems_of_a_kind_and_seeds(results):
    dense, cells = results
    report = make_report(SETTINGS, with_kinds(dense), cells)
    key = ("alps", "0.6", "self")
    scores = np.array([cells[Cell(*key, seed)]["sets"]["known"]["correct"] for seed in range(3)])
    known, other = (
        next(row for row in report.rows if (row["method"], row["target"], row["calibration"], row["problems"]) == (*key, name))
        for name in ("known", "other")
    )
    parts = {"sum": scores[:, :120], "walk|back": scores[:, 120:180], "unknown": scores[:, 180:]}
    assert known["kinds"].keys() == parts.keys()
    for kind, of_kind in parts.items():
        found = known["kinds"][kind]
        assert (found["problems"], found["accuracy"]) == (of_kind.shape[1], pytest.approx(of_kind.mean()))
        over_problems = of_kind.mean(axis=0).std(ddof=1) / np.sqrt(of_kind.shape[1])
        over_seeds = of_kind.mean(axis=1).std(ddof=1) / np.sqrt(3)
        assert found["accuracy_se"] == pytest.approx(np.hypot(over_problems, over_seeds))
        low, high = found["accuracy_ci95"]
        assert low < found["accuracy"] < high
    worst = min(parts, key=lambda kind: parts[kind].mean())
    assert (known["worst_kind"], known["worst_kind_accuracy"]) == (worst, pytest.approx(parts[worst].mean()))
    assert known["worst_kind_accuracy_se"] == known["kinds"][worst]["accuracy_se"]
    assert "kinds" not in other and "kinds" not in report.dense["sets"]["other"]
    of_dense = report.dense["sets"]["known"]["kinds"]["sum"]["accuracy"]
    assert of_dense == pytest.approx(np.mean(dense["sets"]["known"]["correct"][:120]))


@pytest.mark.slow
def test_the_report_has_tables_by_kind(tmp_path, results):
    settings = SETTINGS | {"strategies": ["ssgr", "text"], "methods": ["wanda"], "targets": ["0.5"], "bands": []}
    dense, cells = results
    chosen = {
        cell: of
        for cell, of in cells.items()
        if (cell.method, cell.target) == ("wanda", "0.5") and cell.calibration in ("ssgr", "text")
    }
    report = write_report(settings, with_kinds(dense), chosen, tmp_path)
    (row,) = (row for row in report.rows if (row["calibration"], row["problems"]) == ("text", "known"))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["rows"] == report.rows
    table = kind_table(report, "known")
    assert table[0] == ("method", "calibrated on", "kind", "n", "dense", "50 %") and len(table) == 1 + 2 * 3
    walk = 100 * row["kinds"]["walk|back"]["accuracy"]
    assert [line[5].split()[0] for line in table if line[1:4] == ("text", "walk|back", "60")] == [f"{walk:.1f}"]
    told = f"{row['worst_kind']} {100 * row['worst_kind_accuracy']:.1f}"
    assert [line[2].startswith(told) for line in worst_kind_table(report, "known") if line[1] == "text"] == [True]
    assert any("text" in line and told in line for line in summarize_report(report).splitlines())
    markdown, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    for text in (markdown, page):
        assert text.count("Worst kind") == text.count("By kind of problem") == 1  # of the set whose kinds are known
        assert "low by chance" in text
    lines = [line for line in markdown.splitlines() if "walk\\|back" in line and line.startswith("| Wanda | text |")]
    assert len(lines) in (1, 2) and all(len(re.findall(r"(?<!\\)\|", line)) in (4, 7) for line in lines)


@pytest.mark.slow
def test_report_is_whole_and_asks_no_other_server(tmp_path, results):
    methods, targets = ["magnitude", "sparsegpt"], ["0.5", "0.6", "2:4"]  # quicker to draw than all
    settings = SETTINGS | {"methods": methods, "targets": targets}
    dense, cells = results
    chosen = {cell: of for cell, of in cells.items() if cell.method in methods and cell.target in targets}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_report(settings, dense, chosen, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*"))
    assert len(files) == 3 + 2 * (2 * (1 + 1 + 2) + 1)
    for path in files:  # pictures too
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes(), path
    page = (tmp_path / "first" / "report.html").read_text()
    assert "me/&lt;model&gt;" in page
    assert page.count("<img ") == 9
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    markdown = (tmp_path / "first" / "report.md").read_text()
    assert all((tmp_path / "first" / name).exists() for name in re.findall(r"\]\((.+?)\)", markdown))
    assert json.loads((tmp_path / "first" / "report.json").read_text())["settings"] == settings
