"""Histograms of what was generated and what was selected."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ..extras import missing_extra
from ..formats import Manifest


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.get_logger(__name__)

# From Okabe and Ito's palette, told apart by readers with any colour vision.
ALL, CORRECT, SELECTED = "#BBBBBB", "#56B4E9", "#0072B2"


MOST_KINDS = 20
"""Kinds of problems that there is room for, those with the most correct traces."""


def plot_histograms(rollouts: Dataset, selected: Dataset, manifest: Manifest, path: Path) -> None:
    """Draw the problems by pass rate, and the responses by length and, where there are several, by kind of problem.

    Without matplotlib nothing is drawn, which is told: a calibration set is as good without.

    Args:
        rollouts: Rollout table of a calibration set.
        selected: Its selected sequences.
        manifest: Its manifest, which says where the window of pass rates lies, and what there is of every kind.
        path: PNG file to write.
    """
    missing = missing_extra("matplotlib", "report", "histograms")
    if missing is not None:
        logger.warning(f"The calibration set is saved without histograms: {missing}")
        return
    from matplotlib.figure import Figure  # not by way of pyplot, which would choose a backend for the whole process

    rows = rollouts.select_columns(["problem_id", "sample", "num_tokens", "correct", "pass_rate"]).to_pandas()
    keys = selected.select_columns(["problem_id", "sample"]).to_pandas().dropna()
    chosen = rows.merge(keys, on=["problem_id", "sample"])
    config, kinds = manifest.config, manifest.kinds
    figure = Figure(figsize=(13.5 if kinds else 9, 3.6), layout="constrained")
    left, right, *by_kind = figure.subplots(1, 3 if kinds else 2)

    edges = np.linspace(-0.5, config.samples_per_problem + 0.5, config.samples_per_problem + 2) / config.samples_per_problem
    problems = rows.drop_duplicates("problem_id")
    left.hist(problems.pass_rate, edges, color=ALL, label="all problems")
    left.hist(chosen.drop_duplicates("problem_id").pass_rate, edges, color=SELECTED, label="with a selected trace")
    left.axvspan(*config.pass_rate, color=CORRECT, alpha=0.15, linewidth=0, label="window of difficulty")
    left.set(xlabel="pass rate", ylabel="problems")

    edges = np.histogram_bin_edges(rows.num_tokens, bins=40)
    right.hist(rows.num_tokens, edges, color=ALL, label="all responses")
    right.hist(rows.num_tokens[rows.correct.eq(True)], edges, color=CORRECT, label="correct")
    right.hist(chosen.num_tokens, edges, color=SELECTED, label="selected")
    right.set(xlabel="tokens in the response", ylabel="responses")
    if kinds:
        _draw_kinds(by_kind[0], kinds)
    for axis in (left, right, *by_kind):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    lay_out(figure)
    figure.savefig(path, dpi=160, metadata={"Software": None})


def lay_out(figure: "Figure") -> None:
    """Find a figure's layout once and for all; otherwise it is found, and the figure drawn twice, for every file of it."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)


def _draw_kinds(axis: "Axes", kinds: dict[str, dict[str, float | None]]) -> None:
    """Draw the share of every kind in the tokens of the correct traces above its share in those that are selected."""
    largest = sorted(kinds, key=lambda name: -kinds[name]["pool_share"])[:MOST_KINDS]
    places = np.arange(len(largest))
    for field, offset, colour, label in (
        ("pool_share", -0.2, CORRECT, "of the correct traces"),
        ("selected_share", 0.2, SELECTED, "of the selected ones"),
    ):
        axis.barh(places + offset, [100 * kinds[name][field] for name in largest], 0.4, color=colour, label=label)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in largest]
    axis.set_yticks(places, names, fontsize=8 if len(names) <= 12 else 5, parse_math=False)
    axis.invert_yaxis()
    left_out = f" ({len(largest)} of {len(kinds)} kinds)" if len(largest) < len(kinds) else ""
    axis.set(xlabel=f"share of the tokens in %{left_out}")
