"""Histograms of what was generated and what was selected."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ..config import CalibrationConfig
from ..extras import missing_extra


logger = logging.get_logger(__name__)

# From Okabe and Ito's palette, told apart by readers with any colour vision.
ALL, CORRECT, SELECTED = "#BBBBBB", "#56B4E9", "#0072B2"


def plot_histograms(rollouts: Dataset, selected: Dataset, config: CalibrationConfig, path: Path) -> None:
    """Draw the problems by pass rate, and the responses by length: all, correct and selected.

    Without matplotlib nothing is drawn, which is told: a calibration set is as good without.

    Args:
        rollouts: Rollout table of a calibration set.
        selected: Its selected sequences.
        config: Where the window of pass rates lies.
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
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)

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
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160, metadata={"Software": None})
