"""Figures of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib


matplotlib.use("Agg")  # no display is needed, nor any window opened

import matplotlib.pyplot as plt


# Okabe and Ito's palette, told apart by readers with any colour vision.
COLOURS = {"ssgr": "#0072B2", "self": "#56B4E9", "text": "#E69F00"}
DENSE = "#555555"
LABELS = {"ssgr": "own traces, challenging (ssgr)", "self": "own traces, at random (self)", "text": "general text"}


def plot_comparison(dense: dict[str, Any], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy with error bars, and perplexity on general text, by method and strategy.

    Args:
        dense: Numbers of the dense model.
        rows: Numbers of each pruned model, with `method`, `strategy`, `sparsity`, `accuracy`, `accuracy_se` and
            `text_perplexity`.
        path: PNG file to write.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for axis, name, error, scale, label in (
        (left, "accuracy", "accuracy_se", 100, "problems solved (%), higher is better"),
        (right, "text_perplexity", None, 1, "perplexity on general text, lower is better"),
    ):
        for side, strategy in zip((-0.27, 0.0, 0.27), LABELS, strict=True):
            chosen = [next(row for row in rows if (row["method"], row["strategy"]) == (m, strategy)) for m in methods]
            bars = axis.bar(
                [index + side for index in range(len(methods))],
                [scale * row[name] for row in chosen],
                width=0.25,
                color=COLOURS[strategy],
                yerr=[scale * row[error] for row in chosen] if error else None,
                capsize=3,
                label=LABELS[strategy],
            )
            axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
        axis.axhline(scale * dense[name], color=DENSE, linestyle="--", linewidth=1, label="dense")
        axis.set_xticks(range(len(methods)), methods)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.12)
    figure.suptitle(f"One model, {rows[0]['sparsity']:.0%} of its linear layers' weights removed", fontsize=11)
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=160, metadata={"Software": None})
    plt.close(figure)
