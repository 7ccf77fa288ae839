"""Prune reasoning models with calibration data they wrote themselves."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.2.0.dev0"

_EXPORTS = {
    "SSGRPruner": "pruner",
    "CalibrationConfig": "config",
    "PruningConfig": "config",
    "EngineConfig": "config",
    "RecoveryConfig": "config",
    "SamplingConfig": "config",
    "LoadingConfig": "config",
    "PromptConfig": "config",
    "EvaluationConfig": "evaluation.config",
    "compare_models": "evaluation.compare",
    "recover": "recovery.recover",
    "SparsityCallback": "recovery.masks",
    "StudyConfig": "study.config",
    "run_study": "study.run",
    "CalibrationSet": "calibration.dataset",
    "SSGRError": "errors",
    "Problem": "records",
    "load_problems": "problems.load",
}
__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from .calibration.dataset import CalibrationSet as CalibrationSet
    from .config import CalibrationConfig as CalibrationConfig
    from .config import EngineConfig as EngineConfig
    from .config import LoadingConfig as LoadingConfig
    from .config import PromptConfig as PromptConfig
    from .config import PruningConfig as PruningConfig
    from .config import RecoveryConfig as RecoveryConfig
    from .config import SamplingConfig as SamplingConfig
    from .errors import SSGRError as SSGRError
    from .evaluation.compare import compare_models as compare_models
    from .evaluation.config import EvaluationConfig as EvaluationConfig
    from .problems.load import load_problems as load_problems
    from .pruner import SSGRPruner as SSGRPruner
    from .records import Problem as Problem
    from .recovery.masks import SparsityCallback as SparsityCallback
    from .recovery.recover import recover as recover
    from .study.config import StudyConfig as StudyConfig
    from .study.run import run_study as run_study


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
