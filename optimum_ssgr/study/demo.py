"""The demo: a small study of the embedded reasoner that takes about two minutes on two processor cores."""

from ..config import CalibrationConfig, SamplingConfig
from ..problems.options import ProblemOptions
from ..reasoner import NAME
from .config import StudyConfig


# Chosen on the dev split (see benchmarks/RESULTS.md), where the pruned models still differ from dense and from guessing.
SPARSITY = 0.5
CALIBRATION_PROBLEMS = 128
EVALUATION_PROBLEMS = 128
BATCH_SIZE = 256
CALIBRATION = CalibrationConfig(num_sequences=None, num_tokens=5000, samples_per_problem=6, max_new_tokens=400, text_length=160)
EVALUATION = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=400)


def demo_config(sparsity: float = SPARSITY, split: str = "test", num_problems: int = EVALUATION_PROBLEMS) -> StudyConfig:
    """Return the demo's settings.

    Args:
        sparsity: Share of the weights to remove.
        split: Problems to evaluate on, `dev` or `test`.
        num_problems: How many of them.

    Raises:
        ConfigError: A setting is out of range.
    """
    return StudyConfig(
        model=NAME,
        problems=NAME,
        calibration=CALIBRATION,
        evaluation=EVALUATION,
        strategies=("cover", "self", "text"),
        methods=("sparsegpt", "wanda"),
        sparsities=(sparsity,),
        seeds=3,
        num_evaluation_problems=num_problems,
        evaluation_split=split,
        text=NAME,
        batch_size=BATCH_SIZE,
        reading=ProblemOptions(limit=CALIBRATION_PROBLEMS),
        keep_checkpoints=True,
    )
