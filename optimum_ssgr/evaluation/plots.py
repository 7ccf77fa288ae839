"""Figures of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib


matplotlib.use("Agg")  # no display is needed, nor any window opened

import matplotlib.pyplot as plt


# Okabe and Ito's palette, told apart by readers with any colour vision.
COLOURS = {"ssgr": "#0072B2", "text": "#E69F00"}
DENSE = "#555555"


def plot_comparison(dense: dict[str, Any], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy with error bars, and truncated responses, by method and strategy.

    Args:
        dense: Numbers of the dense model.
        rows: Numbers of each pruned model, with `method`, `strategy`, `sparsity`, `accuracy`, `accuracy_se` and `truncated`.
        path: PNG file to write.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = (("accuracy", "accuracy_se", "problems solved (%)"), ("truncated", None, "responses cut at the limit (%)"))
    for axis, (name, error, label) in zip(axes, panels, strict=True):
        for place, strategy in enumerate(strategies):
            chosen = [next(r for r in rows if r["method"] == m and r["strategy"] == strategy) for m in methods]
            bars = axis.bar(
                [index + (place - (len(strategies) - 1) / 2) * 0.36 for index in range(len(methods))],
                [100 * row[name] for row in chosen],
                width=0.34,
                color=COLOURS[strategy],
                yerr=[100 * row[error] for row in chosen] if error else None,
                capsize=3,
                label=f"calibrated on {'its own traces (ssgr)' if strategy == 'ssgr' else 'general text'}",
            )
            axis.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
        axis.axhline(100 * dense[name], color=DENSE, linestyle="--", linewidth=1, label="dense")
        axis.set_xticks(range(len(methods)), methods)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
        axis.set_ylim(bottom=0)
    sparsity = rows[0]["sparsity"]
    figure.suptitle(f"The same model with {sparsity:.0%} of its weights removed, by what it was calibrated on", fontsize=11)
    axes[0].legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(1.1, -0.1), ncols=3)
    figure.savefig(path, dpi=160, metadata={"Software": None})
    plt.close(figure)
