"""How a study's tables and plots name things."""

from .statistics import StudyReport


_LABELS = {"sparsegpt": "SparseGPT", "wanda": "Wanda", "alps": "ALPS", "magnitude": "magnitude"}


def label_method(method: str) -> str:
    """Write the name of a method, and what refines it."""
    name, *refine = method.split("+")
    return " + ".join((_LABELS[name], *refine))


def label_target(target: str) -> str:
    """Write a sparsity in percent, and a pattern as it is."""
    return target if ":" in target else f"{float(target):.0%}".replace("%", " %")


def describe_errors(report: StudyReport) -> str:
    """Say what errors are taken over."""
    seeds = max(row["seeds"] for row in report.rows)
    return f"problems and {seeds} calibration seeds" if seeds > 1 else "problems alone, as there is one calibration seed"
