"""Put the intervals of stored study reports right from their own numbers: `python benchmarks/study_intervals.py docs/study/*`.

For reports of version 0.1.0, whose intervals were by the normal quantile. A standard error there is the root of two squared
parts: that over seeds follows from the accuracy of every seed, and the rest is that over problems, so that nothing has to
be run again. Means and standard errors stay as they are. Writes `report.json`, `report.md` and `plots` anew.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from optimum_ssgr.evaluation.intervals import Variance, difference_estimate, share_estimate
from optimum_ssgr.study.plots import plot_study
from optimum_ssgr.study.report import as_markdown
from optimum_ssgr.study.statistics import AVERAGED, StudyReport


NORMAL = 1.96


def split_error(error: float, problems: int, by_seed: np.ndarray) -> Variance:
    """Split a standard error over problems and seeds into its parts."""
    seeds = len(by_seed)
    over_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    return Variance(max(error**2 - over_seeds, 0.0), problems, over_seeds, seeds)


def mend_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its intervals, and without errors over a single seed."""
    by_seed = np.array(row["accuracy_by_seed"])
    low, high = row["minus_dense_ci95"]
    from_dense = row.get("minus_dense_se", (high - low) / 2 / NORMAL)
    solved = share_estimate(row["accuracy"], split_error(row["accuracy_se"], row["n"], by_seed))
    difference = difference_estimate(row["minus_dense"], split_error(from_dense, row["n"], by_seed))
    unknown = {f"{name}_se": None for name in AVERAGED} if row["seeds"] == 1 else {}
    return (
        row
        | unknown
        | {
            "accuracy_ci95": list(solved.interval),
            "minus_dense_se": from_dense,
            "minus_dense_ci95": list(difference.interval),
        }
    )


def mend_report(stored: dict[str, Any]) -> StudyReport:
    """Return a report with its intervals put right."""
    for of_set in stored["dense"]["sets"].values():
        alone = Variance(of_set["accuracy_se"] ** 2, of_set["problems"], 0.0, 1)
        of_set["accuracy_ci95"] = list(share_estimate(of_set["accuracy"], alone).interval)
    stored["rows"] = [mend_row(row) for row in stored["rows"]]
    rows = {tuple(row[name] for name in ("method", "target", "problems", "calibration")): row for row in stored["rows"]}
    for item in stored["differences"]:
        pair = [rows[item["method"], item["target"], item["problems"], item[name]] for name in ("first", "second")]
        first, second = (np.array(row["accuracy_by_seed"]) for row in pair)
        variance = split_error(item["se"], pair[0]["n"], first - second)
        item["ci95"] = list(difference_estimate(item["difference"], variance).interval)
    for item in stored["reconstruction"]:
        item["seeds"] = stored["settings"]["seeds"] if item["calibration"] else 1
        item["se"] = item["se"] if item["seeds"] > 1 else [None] * len(item["se"])
    return StudyReport.from_dict(stored)


def main() -> None:
    """Mend reports, and say how many differences are outside the noise before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        stored = json.loads((folder / "report.json").read_text())
        before = [item["ci95"] for item in stored["differences"]]
        report = mend_report(stored)
        after = [item["ci95"] for item in report.differences]
        with tempfile.TemporaryDirectory() as scratch:
            captions = plot_study(report, Path(scratch) / "plots")
            for name in captions:
                (folder / "plots" / f"{name}.png").write_bytes((Path(scratch) / "plots" / f"{name}.png").read_bytes())
        (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        (folder / "report.md").write_text(as_markdown(report, captions))
        outside = [sum(low > 0 or high < 0 for low, high in intervals) for intervals in (before, after)]
        print(f"{folder}: {outside[0]} of {len(before)} differences outside the noise before, {outside[1]} now")


if __name__ == "__main__":
    main()
