"""Which models are compared on which problems, and how; imports nothing heavy, so that mistakes are found at once."""

from dataclasses import dataclass, field

from ..config import EngineConfig, LoadingConfig, PromptConfig, SamplingConfig, as_engine
from ..errors import ConfigError
from ..hub.names import split_revision
from ..problems.options import ProblemOptions
from ..rollouts.addresses import check_engine
from .benchmarks import BENCHMARKS


TEXT_WINDOWS = 256
"""Windows of general text that perplexity is measured on at most."""


@dataclass(frozen=True)
class EvaluationConfig:
    """A comparison of models on the same problems.

    Args:
        models: Hub ids (`ID` or `ID@REVISION`), folders, or `tiny-reasoner`.
        problems: Problem sets, named as for `load_problems`.
        benchmarks: Names of `BENCHMARKS`: problem sets with the number of samples that the field uses.
        samples: Responses to each problem; 1, or the benchmark's, when None.
        baseline: Model to compare the others with, problem by problem; asked even where `models` does not name it.
        sampling: How to sample; temperature 0 is greedy.
        text: General text to measure perplexity on, named as for `load_documents`; None for none.
        text_split: Split of the text; when None, `validation`, and of the embedded reasoner's `test`.
        text_length: Tokens in a window of text.
        traces: Calibration set whose rollouts the dense model wrote, to measure trace perplexity on what is held out of them;
            None for none.
        engine: Where to generate, or the name of `EngineConfig` alone. A server that is started has one model after the other.
        batch_size: Most responses in the making at a time; with servers, at each of them to begin with.
        reading: How the problem sets are read.
        prompting: System message, variables of the chat template, and how thinking is delimited.
        loading: How the models are loaded.

    Raises:
        ConfigError: There is nothing to evaluate on, a name is unknown, or a number is out of range.
    """

    models: tuple[str, ...]
    problems: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    samples: int | None = None
    baseline: str | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    text: str | None = None
    text_split: str | None = None
    text_length: int = 2048
    traces: str | None = None
    engine: str | EngineConfig = field(default_factory=EngineConfig)
    batch_size: int = 64
    reading: ProblemOptions = field(default_factory=ProblemOptions)
    prompting: PromptConfig = field(default_factory=PromptConfig)
    loading: LoadingConfig = field(default_factory=LoadingConfig)

    def __post_init__(self) -> None:
        unknown = [name for name in self.benchmarks if name not in BENCHMARKS]
        if unknown:
            raise ConfigError(f"unknown benchmark '{unknown[0]}'; choose among {', '.join(BENCHMARKS)}.")
        if not self.problems and not self.benchmarks:
            raise ConfigError("name what to evaluate on with --problems or --benchmark.")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {self.samples}.")
        object.__setattr__(self, "engine", as_engine(self.engine))
        check_engine(self.engine, self.batch_size)
        if not (self.engine.in_process or self.engine.is_managed):
            names = [split_revision(model)[0] for model in self.asked_models]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ConfigError(
                    f"servers know a model by its name alone, so they cannot tell revisions of {twice[0]} apart; evaluate them "
                    "one after the other."
                )
        if self.text and self.text_length < 2:
            raise ConfigError(f"text_length must be at least 2, not {self.text_length}.")
        for flag in ("text", "traces"):
            if getattr(self, flag) and not self.engine.in_process:
                raise ConfigError(
                    f"--{flag} needs the model in this process, which --engine leaves to servers; measure it by itself."
                )

    @property
    def asked_models(self) -> tuple[str, ...]:
        """The models to ask, each once, the baseline first."""
        return tuple(dict.fromkeys((self.baseline, *self.models) if self.baseline else self.models))

    @property
    def samples_of(self) -> dict[str, int]:
        """Responses to each problem, by the name of its set."""
        own = dict.fromkeys(self.problems, self.samples or 1)
        return own | {BENCHMARKS[name].problems: self.samples or BENCHMARKS[name].samples for name in self.benchmarks}
