"""Compare strategies, methods and sparsities on one model: `run_study(StudyConfig(...), "study")`."""

from typing import TYPE_CHECKING, Any

from .config import StudyConfig


if TYPE_CHECKING:
    from .run import run_study as run_study

__all__ = ["StudyConfig", "run_study"]


def __getattr__(name: str) -> Any:
    if name == "run_study":  # with torch: not for those who only check settings
        from .run import run_study

        return run_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
