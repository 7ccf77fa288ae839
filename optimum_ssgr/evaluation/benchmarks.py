"""The field's protocol for reasoning models: problem sets, samples, and the tasks of lighteval that ask the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import SamplingConfig
from ..hub.names import split_revision


@dataclass(frozen=True)
class Benchmark:
    """One problem set and how it is usually asked; sampling is `SamplingConfig`'s own (T=0.6, top-p 0.95, 32,768 tokens).

    Args:
        problems: Hub id, known to `problems/sources.py`, which has the instruction.
        samples: Responses to each problem.
        lighteval: Task of lighteval on the same problems; None where its settings do not suit a reasoning model.
        leaderboard: Task that the data set's `eval.yaml` registers with the Hub, which keeps its leaderboard; None without one.
    """

    problems: str
    samples: int
    lighteval: str | None = None
    leaderboard: str | None = None


# Samples: AIME is reported over 64, GPQA-Diamond over 4 to 16, MATH-500 over 1 to 4. lighteval's gsm8k stops at 256 tokens.
BENCHMARKS = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", 4, "math_500"),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", 64, "aime24_avg"),
    "aime25": Benchmark("yentinglin/aime_2025", 64, "aime25_avg"),
    "gsm8k": Benchmark("openai/gsm8k", 1, leaderboard="gsm8k"),
    "gpqa": Benchmark("Idavidrein/gpqa", 4, "gpqa:diamond", leaderboard="diamond"),
}


def find_benchmark(problems: str) -> Benchmark | None:
    """Return the benchmark that a problem set is, if it is one."""
    return next((benchmark for benchmark in BENCHMARKS.values() if benchmark.problems.lower() == problems.lower()), None)


def lighteval_command(model: str, problems: Sequence[str], sampling: SamplingConfig, dtype: str = "auto") -> str | None:
    """Return a command that evaluates a model on the same problems with lighteval 0.12 or newer, on vLLM, as a cross-check.

    Args:
        model: Hub id (`ID` or `ID@REVISION`) or path.
        problems: Names of problem sets.
        sampling: How to sample.
        dtype: Weight type.

    Returns:
        The command; None when lighteval has none of the sets.
    """
    found = [benchmark for name in problems if (benchmark := find_benchmark(name)) and benchmark.lighteval]
    if not found:
        return None
    generation = f"max_new_tokens:{sampling.max_new_tokens},temperature:{sampling.temperature},top_p:{sampling.top_p}"
    name, revision = split_revision(model)
    named = f"{name},revision={revision}" if revision else name
    arguments = f"model_name={named},dtype={dtype},generation_parameters={{{generation}}}"
    tasks = ",".join(f"{benchmark.lighteval}|0" for benchmark in found)
    return f'lighteval vllm "{arguments}" "{tasks}" --save-details'
