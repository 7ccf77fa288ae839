"""The models to compare when none are given: the embedded reasoner next to pruned versions of itself."""

import atexit
import copy
import dataclasses
import tempfile
from pathlib import Path

from transformers.utils import logging

from ..config import CalibrationConfig, PruningConfig
from ..problems.load import load_problems
from ..reasoner import NAME
from .settings import ChatSettings


logger = logging.get_logger(__name__)

STRATEGIES = ("text", "cover")
PROBLEMS = 160
CALIBRATION = CalibrationConfig(
    num_sequences=None, num_tokens=12000, samples_per_problem=4, max_new_tokens=400, text_length=160
)
PRUNING = PruningConfig(method="sparsegpt", sparsity=0.5)


def find_demo(demo: Path) -> tuple[str, ...] | None:
    """Return the models of a folder that `optimum-cli ssgr demo` wrote; None when they are not there."""
    pruned = [demo / "checkpoints" / strategy for strategy in STRATEGIES]
    return (NAME, *map(str, pruned)) if all(folder.is_dir() for folder in pruned) else None


def make_demo(folder: Path) -> tuple[str, ...]:
    """Prune the embedded reasoner with general text and with its own traces; takes under a minute.

    Args:
        folder: Where to save `checkpoints/` and `calibration/`.

    Returns:
        The dense model and the folders of the pruned ones.
    """
    from ..pruner import SSGRPruner
    from ..reasoner.text import documents

    logger.warning("Pruning the embedded reasoner with general text and with its own traces; this takes under a minute.")
    dense = SSGRPruner.from_pretrained(NAME)
    problems = load_problems(NAME, split="train", limit=PROBLEMS)
    sets = {
        "text": dense.build_calibration(config=_config_for("text"), text=documents("train")),
        "cover": dense.build_calibration(problems, _config_for("cover"), output_dir=folder / "calibration", batch_size=128),
    }
    for strategy in STRATEGIES:
        pruner = SSGRPruner(copy.deepcopy(dense.model), dense.tokenizer)
        pruner.prune(sets[strategy], PRUNING)
        pruner.save_pretrained(folder / "checkpoints" / strategy)
    return find_demo(folder)


def _config_for(strategy: str) -> CalibrationConfig:
    return dataclasses.replace(CALIBRATION, strategy=strategy)


def add_embedded_models(settings: ChatSettings) -> ChatSettings:
    """Return settings that name models: where they name none, those of `./demo`, or else ones made now.

    What is made lies in a folder that is removed at the end of the process.
    """
    if settings.models:
        return settings
    folder, models = Path("demo"), find_demo(Path("demo"))
    if models is None:
        temporary = tempfile.TemporaryDirectory(prefix="ssgr-chat-")
        atexit.register(temporary.cleanup)
        folder = Path(temporary.name)
        models = make_demo(folder)
    calibration = folder / "calibration"
    return dataclasses.replace(
        settings,
        models=models,
        max_new_tokens=min(settings.max_new_tokens, CALIBRATION.max_new_tokens),
        results=settings.results or (str(folder) if (folder / "report.json").is_file() else None),
        calibration=settings.calibration or (str(calibration) if calibration.is_dir() else None),
    )
