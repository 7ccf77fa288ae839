"""The field's protocol for reasoning models: problem sets, samples, and the tasks of lighteval that ask the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import SamplingConfig


@dataclass(frozen=True)
class Preset:
    """One problem set and how it is usually asked; sampling is `SamplingConfig`'s own (T=0.6, top-p 0.95, 32,768 tokens).

    Args:
        problems: Hub id, known to `problems/sources.py`, which has the instruction.
        samples: Responses to each problem.
        lighteval: Task of lighteval on the same problems; None where its settings do not suit a reasoning model.
        benchmark: Task that the data set's `eval.yaml` registers with the Hub, which keeps its leaderboard; None without one.
    """

    problems: str
    samples: int
    lighteval: str | None = None
    benchmark: str | None = None


# Samples: AIME is reported over 64, GPQA-Diamond over 4 to 16, MATH-500 over 1 to 4. lighteval's gsm8k stops at 256 tokens.
PRESETS = {
    "math500": Preset("HuggingFaceH4/MATH-500", 4, "math_500"),
    "aime24": Preset("HuggingFaceH4/aime_2024", 64, "aime24_avg"),
    "aime25": Preset("yentinglin/aime_2025", 64, "aime25_avg"),
    "gsm8k": Preset("openai/gsm8k", 1, benchmark="gsm8k"),
    "gpqa": Preset("Idavidrein/gpqa", 4, "gpqa:diamond", benchmark="diamond"),
}


def find_preset(problems: str) -> Preset | None:
    """Return the preset of a problem set, if it has one."""
    return next((preset for preset in PRESETS.values() if preset.problems.lower() == problems.lower()), None)


def lighteval_command(model: str, problems: Sequence[str], sampling: SamplingConfig, dtype: str = "auto") -> str | None:
    """Return a command that evaluates a model on the same problems with lighteval 0.12 or newer, on vLLM, as a cross-check.

    Args:
        model: Hub id or path.
        problems: Names of problem sets.
        sampling: How to sample.
        dtype: Weight type.

    Returns:
        The command; None when lighteval has none of the sets.
    """
    presets = [preset for name in problems if (preset := find_preset(name)) and preset.lighteval]
    if not presets:
        return None
    generation = f"max_new_tokens:{sampling.max_new_tokens},temperature:{sampling.temperature},top_p:{sampling.top_p}"
    arguments = f"model_name={model},dtype={dtype},generation_parameters={{{generation}}}"
    tasks = ",".join(f"{preset.lighteval}|0" for preset in presets)
    return f'lighteval vllm "{arguments}" "{tasks}" --save-details'
