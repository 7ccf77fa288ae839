"""Settings of calibration, sampling and pruning: plain dataclasses that check themselves and travel as JSON."""

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from .errors import ConfigError
from .thinking import STYLES


IN_PROCESS = "transformers"
"""The engine that generates with the model in this process."""

MANAGED = ("vllm", "sglang")
"""Engines that are started on this machine and stopped again; others are addresses of servers."""

STRATEGIES = ("cover", "ssgr", "self", "rac", "resp", "obc", "mix", "prompts", "text")
METHODS = ("magnitude", "wanda", "sparsegpt", "alps")
ALLOCATIONS = ("uniform", "owl")
REFINEMENTS = ("swaps", "blocks")
# What is published of each paper's own settings. Of SSGR (arXiv 2511.18864) it is the nearest public reading; RAC (arXiv
# 2509.12464) says temperatures of 0.6 to 0.7; what RESP (arXiv 2512.02185) shares with it, and OBC-Prune (arXiv 2609.17890)
# with SSGR, is taken from there.
RECIPES: dict[str, dict[str, Any]] = {
    "ssgr": {"strategy": "ssgr"},
    "rac": {"strategy": "rac", "temperature": 0.6, "num_sequences": None, "num_tokens": 1_000_000},
    "resp": {"strategy": "resp", "temperature": 0.6, "num_sequences": None, "num_tokens": 1_000_000},
    "obc": {"strategy": "obc", "num_sequences": 256},
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


class _JSONConfig:
    """JSON round trip shared by the configs; `file_name` is the file's name inside a folder."""

    file_name: str

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a config from `to_dict` output.

        Raises:
            ConfigError: A name is unknown or a value is out of range.
        """
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        _require(not unknown, f"unknown settings in {cls.__name__}: {', '.join(sorted(unknown))}.")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the settings to `file_name` in a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / self.file_name).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read the settings from `file_name` in a folder.

        Raises:
            ConfigError: The file is missing, malformed or holds wrong settings.
        """
        path = Path(folder) / cls.file_name
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise ConfigError(f"there is no {cls.file_name} in {folder}.") from None
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not valid JSON ({error}).") from None
        return cls.from_dict(values)


@dataclass(frozen=True)
class SamplingConfig(_JSONConfig):
    """How responses are sampled.

    Args:
        temperature: Softmax temperature; 0 means greedy.
        top_p: Probability mass kept by nucleus sampling; 1 keeps everything.
        max_new_tokens: Longest response, in tokens; a longer one is cut and counts as truncated.
        seed: Every request draws from a generator of its own, seeded from this, its problem and its sample number.

    Raises:
        ConfigError: A value is out of range.
    """

    file_name = "sampling_config.json"
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 32768
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, f"temperature must be 0 or more, not {self.temperature}.")
        _require(0 < self.top_p <= 1, f"top_p must be above 0 and at most 1, not {self.top_p}.")
        _require(self.max_new_tokens >= 1, f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")


@dataclass(frozen=True)
class EngineConfig:
    """Where responses are generated.

    Args:
        name: `transformers` for the model in this process, `vllm` or `sglang` for such a server, which is started on this
            machine when there is something to generate and stopped afterwards, or addresses of OpenAI-compatible servers that
            have the model, separated by commas.
        command: The executable of a server to start; `name` itself, found on PATH, when None.
        arguments: More flags for it, as in a shell; they win over those it is given anyway.
        request_seeds: Whether every request to a server carries a seed of its own. Without seeds the same call gives other
            responses every time, but the samples of a problem travel in one request.

    Raises:
        ConfigError: The flags cannot be split, or are given where no server is started.
    """

    name: str = IN_PROCESS
    command: str | None = None
    arguments: str = ""
    request_seeds: bool = True

    def __post_init__(self) -> None:
        _require(
            self.is_managed or not (self.command or self.arguments),
            f"a command and flags are for an engine that is started here, {' or '.join(MANAGED)}, not for '{self.name}'.",
        )
        _require(self.request_seeds or not self.in_process, "requests go without seeds to servers only; see --engine.")
        try:
            shlex.split(self.arguments)
        except ValueError as error:
            raise ConfigError(f"the flags for {self.name} cannot be split ({error}): {self.arguments}") from None

    @property
    def in_process(self) -> bool:
        """Whether the model in this process generates."""
        return self.name == IN_PROCESS

    @property
    def is_managed(self) -> bool:
        """Whether a server is started for it."""
        return self.name in MANAGED

    @property
    def recorded(self) -> str:
        """What manifests say of it: no addresses."""
        return self.name if self.in_process or self.is_managed else "OpenAI-compatible server"


def as_engine(engine: str | EngineConfig) -> EngineConfig:
    """Take an engine's name for its settings."""
    return EngineConfig(engine) if isinstance(engine, str) else engine


@dataclass(frozen=True)
class CalibrationConfig(_JSONConfig):
    """Which sequences to calibrate on.

    The defaults are those of the nearest public reading of SSGR (arXiv 2511.18864), 16 rollouts a problem at temperature 0.8
    and 128 sequences, but for the strategy: the paper's windows of difficulty and length, which `from_recipe("ssgr")` takes,
    leave whole kinds of problems out, and `cover` does not (docs/study.md).

    Args:
        strategy: `cover` (correct self-generated traces of every kind of problem, difficult ones more often), `ssgr` (correct,
            challenging, moderately long ones: of problems solved 20-80 % of the time, between the 25th and 75th percentile of
            their length), `self` (correct self-generated traces
            at random), `rac` (unverified self-generated traces, arXiv 2509.12464), `resp` (the same, counting the responses'
            tokens alone, arXiv 2512.02185), `obc` (pairs of a right and a wrong trace, arXiv 2609.17890), `mix` (the traces of
            `ssgr` and general text), `prompts` (the questions alone) or `text` (windows of general text).
        num_sequences: Sequences to select at most; None for no limit.
        num_tokens: Tokens to select, prompt included; the last sequence is cut to meet it exactly. None for no limit.
        samples_per_problem: Rollouts sampled for each problem.
        temperature: Softmax temperature of the rollouts.
        top_p: Probability mass kept by nucleus sampling.
        max_new_tokens: Longest response, in tokens.
        pass_rate: Lowest and highest share of correct rollouts that make a problem challenging (`ssgr`).
        length_window: Percentiles of response length, among the correct rollouts of challenging problems, between which a
            trace is moderate (`ssgr`).
        max_per_problem: Traces selected from one problem at most; `obc` always takes two.
        text_length: Length of a window of general text, in tokens (`text`, `mix`).
        text_share: Share of the tokens that general text has in a mixture (`mix`).
        kind_shares: Kinds of problems (`Problem.kind`) and the share of the selected tokens that each is to have; the other
            kinds divide what is left in proportion to their correct traces, or to their damage (`cover`).
        damage: Draw the traces that pruning damages most more often, instead of those of difficult problems (`cover`).
        adaptive: Sample a problem no further once it is decided whether it is challenging, and ask no more problems once the
            budget is met (`ssgr`).
        seed: Seed of sampling and selection.

    Raises:
        ConfigError: A value is unknown or out of range.
    """

    file_name = "calibration_config.json"
    strategy: str = "cover"
    num_sequences: int | None = 128
    num_tokens: int | None = None
    samples_per_problem: int = 16
    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 8192
    pass_rate: tuple[float, float] = (0.2, 0.8)
    length_window: tuple[float, float] = (25.0, 75.0)
    max_per_problem: int = 2
    text_length: int = 2048
    text_share: float = 0.5
    kind_shares: tuple[tuple[str, float], ...] = ()
    damage: bool = False
    adaptive: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.strategy in STRATEGIES, f"unknown strategy '{self.strategy}'; choose one of {', '.join(STRATEGIES)}.")
        budgets = [budget for budget in (self.num_sequences, self.num_tokens) if budget is not None]
        _require(bool(budgets), "set num_sequences or num_tokens, otherwise the calibration set has no size.")
        _require(min(budgets) >= 1, "num_sequences and num_tokens must be at least 1.")
        for name in ("samples_per_problem", "max_per_problem"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}.")
        _require(self.text_length >= 2, f"text_length must be at least 2, not {self.text_length}.")
        _require(
            not self.damage or self.strategy == "cover",
            f"damage decides what the strategy cover draws, and nothing of the strategy {self.strategy}.",
        )
        object.__setattr__(self, "kind_shares", tuple((kind, share) for kind, share in self.kind_shares))  # JSON has lists
        self._check_kind_shares()
        _require(0 < self.text_share < 1, f"text_share must lie between 0 and 1, not {self.text_share}.")
        _require(
            not self.adaptive or self.strategy == "ssgr",
            f"adaptive sampling looks for challenging problems, which the strategy {self.strategy} does not select by.",
        )
        _require(
            self.strategy != "obc" or self.max_per_problem >= 2,
            "the strategy obc takes pairs of traces of a problem; set max_per_problem to 2 or more.",
        )
        low, high = self.pass_rate
        _require(0 <= low <= high <= 1, f"pass_rate must be two shares between 0 and 1, low to high, not {low}, {high}.")
        low, high = self.length_window
        _require(0 <= low <= high <= 100, f"length_window must be two percentiles between 0 and 100, not {low}, {high}.")
        self.sampling  # noqa: B018  (checks the sampling settings)

    def _check_kind_shares(self) -> None:
        shares = dict(self.kind_shares)
        _require(
            not shares or self.strategy == "cover",
            f"shares of the tokens by kind are met by the strategy cover, not by {self.strategy}.",
        )
        _require(len(shares) == len(self.kind_shares), "kind_shares names a kind twice.")
        for kind, share in shares.items():
            _require(0 < share <= 1, f"the share of {kind} must be above 0 and at most 1, not {share}.")
        total = sum(shares.values())
        _require(total <= 1 + 1e-9, f"the shares of the kinds are {total:g} together, more than 1.")

    @classmethod
    def from_recipe(cls, name: str) -> Self:
        """Return the settings that a paper publishes; those it leaves open are the defaults.

        Args:
            name: `ssgr`, `rac`, `resp` or `obc`.

        Raises:
            ConfigError: There is no such recipe.
        """
        _require(name in RECIPES, f"unknown recipe '{name}'; choose one of {', '.join(RECIPES)}.")
        return cls(**RECIPES[name])

    @property
    def sampling(self) -> SamplingConfig:
        """How the rollouts are sampled."""
        return SamplingConfig(self.temperature, self.top_p, self.max_new_tokens, self.seed)

    @property
    def needs_rollouts(self) -> bool:
        """Whether the strategy selects among generated traces."""
        return self.strategy not in ("prompts", "text")

    @property
    def needs_text(self) -> bool:
        """Whether the strategy selects windows of general text."""
        return self.strategy in ("mix", "text")


@dataclass(frozen=True)
class PruningConfig(_JSONConfig):
    """What to prune and how.

    Args:
        method: `sparsegpt` (arXiv 2301.00774), `alps` (arXiv 2406.07831), `wanda` (arXiv 2306.11695) or `magnitude`.
        sparsity: Share of the weights of every linear layer to set to zero, in [0, 1); None when a pattern is given.
        pattern: N:M pattern such as `2:4`, which keeps N of every M consecutive weights of a row; None for unstructured.
        damping: Share of the mean diagonal added to the Hessian's diagonal (`sparsegpt`, `alps`).
        true_sequential: Whether every block is run once, and each layer's statistics are gathered behind the pruned layers
            before it; else they are gathered from the dense block and it is run again, which takes longer and less memory. None
            takes True, or False when the model is streamed.
        allocation: `uniform` gives every block the same sparsity, `owl` leaves more weights to blocks with more outliers
            (arXiv 2310.05175).
        refine: What follows the method: `swaps` exchanges pruned and kept weights of a row while that lowers the error of its
            output (arXiv 2512.10922), `blocks` fits what is left of each block to the dense block's outputs (arXiv 2510.14444).

    Raises:
        ConfigError: A value is unknown or out of range.
    """

    file_name = "pruning_config.json"
    method: str = "sparsegpt"
    sparsity: float | None = None
    pattern: str | None = None
    damping: float = 0.01
    true_sequential: bool | None = None
    allocation: str = "uniform"
    refine: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.method in METHODS, f"unknown method '{self.method}'; choose one of {', '.join(METHODS)}.")
        _require(0 < self.damping <= 0.5, f"damping must be above 0 and at most 0.5, not {self.damping}.")
        _require(
            isinstance(self.true_sequential, bool | None),
            f"true_sequential must be true or false, not '{self.true_sequential}'.",
        )
        _require(
            self.allocation in ALLOCATIONS,
            f"unknown allocation '{self.allocation}'; choose one of {', '.join(ALLOCATIONS)}.",
        )
        _require(not isinstance(self.refine, str), f"refine must be a list of refinements, such as ['{self.refine}'].")
        for name in self.refine:
            _require(name in REFINEMENTS, f"unknown refinement '{name}'; choose among {', '.join(REFINEMENTS)}.")
        # In the order they are done in, so that the same settings are equal.
        object.__setattr__(self, "refine", tuple(name for name in REFINEMENTS if name in self.refine))
        if self.pattern is None:
            if self.sparsity is None:
                object.__setattr__(self, "sparsity", 0.5)
            _require(0 <= self.sparsity < 1, f"sparsity must be at least 0 and below 1, not {self.sparsity}.")
            return
        _require(self.allocation == "uniform", f"allocation {self.allocation} varies the sparsity, which a pattern fixes.")
        _require(self.sparsity is None, "give sparsity or pattern, not both: a pattern fixes the sparsity.")
        match = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        _require(
            bool(match) and 0 < int(match[1]) < int(match[2]),
            f"pattern must be N:M with 0 < N < M, for example 2:4, not '{self.pattern}'.",
        )

    def resolve(self, streamed: bool) -> Self:
        """Return the settings with `true_sequential` decided."""
        return self if self.true_sequential is not None else dataclasses.replace(self, true_sequential=not streamed)

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """The pattern as (kept, group size), or None when unstructured."""
        if self.pattern is None:
            return None
        kept, size = self.pattern.split(":")
        return int(kept), int(size)

    @property
    def needs_calibration(self) -> bool:
        """Whether anything depends on the model's activations."""
        return self.method != "magnitude" or self.allocation != "uniform" or bool(self.refine)

    @property
    def calibrated(self) -> str:
        """What of the settings needs a calibration set, in words."""
        if self.method != "magnitude":
            return f"the method {self.method}"
        return f"the allocation {self.allocation}" if self.allocation != "uniform" else f"refining {self.refine[0]}"

    @property
    def target_sparsity(self) -> float:
        """Share of weights the settings ask to remove."""
        if self.n_of_m is None:
            return self.sparsity
        kept, size = self.n_of_m
        return 1 - kept / size


@dataclass(frozen=True)
class RecoveryConfig(_JSONConfig):
    """How a pruned model is fine-tuned with its zeros kept: AdamW without weight decay, a cosine after 5 % of warming up.

    Args:
        epochs: Times that every trace is seen.
        learning_rate: Greatest step size.
        batch_size: Traces in a step of the optimizer.
        gradient_accumulation: Parts that a step is run in, for want of memory; they divide the batch.
        num_traces: Traces to draw by the seed; None takes all right ones.
        distillation: Weight of the divergence from the scores of a teacher against that of the traces' tokens, in [0, 1]; of
            no effect without a teacher.
        seed: Seed of everything random.

    Raises:
        ConfigError: A value is out of range.
    """

    file_name = "recovery_config.json"
    epochs: float = 2.0
    learning_rate: float = 2e-5
    batch_size: int = 16
    gradient_accumulation: int = 1
    num_traces: int | None = None
    distillation: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        for name in ("batch_size", "gradient_accumulation", "num_traces"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1, not {value}.")
        _require(
            self.batch_size % self.gradient_accumulation == 0,
            f"gradient_accumulation must divide batch_size, which {self.gradient_accumulation} does not: {self.batch_size}.",
        )
        _require(0 <= self.distillation <= 1, f"distillation must lie between 0 and 1, not {self.distillation}.")


@dataclass(frozen=True)
class PromptConfig(_JSONConfig):
    """How a model is addressed beside the question, and how it delimits its thinking.

    Args:
        template_kwargs: Variables of the chat template, such as `{"enable_thinking": True}`; where the template has thinking
            switched off, the variable that switches it on is set unless it is given here.
        system: System message; the template's own when None.
        thinking: Name of one of `thinking.STYLES`, or opening and closing delimiter; found out from the tokenizer when None.

    Raises:
        ConfigError: There is no such style, or a delimiter is missing.
    """

    file_name = "prompt_config.json"
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    thinking: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.thinking is not None:
            given = " ".join(self.thinking)
            _require(
                (len(self.thinking) == 2 and all(self.thinking)) or given in STYLES,
                f"thinking is one of {', '.join(STYLES)}, or an opening and a closing delimiter, not '{given}'.",
            )

    def messages(self, *spoken: tuple[str, str]) -> list[dict[str, str]]:
        """Return a conversation of roles and texts as chat templates take it, behind the system message if there is one."""
        whole = (("system", self.system), *spoken) if self.system else spoken
        return [{"role": role, "content": text} for role, text in whole]

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings that are not left open, as plain JSON types."""
        return {name: value for name, value in self.to_dict().items() if value}


@dataclass(frozen=True)
class LoadingConfig(_JSONConfig):
    """How models are loaded, as in transformers; where from, their names say.

    Args:
        dtype: Weight type such as `bfloat16`; `auto` keeps the checkpoint's own.
        device_map: Where to place the layers, such as `auto` or `cuda`.
        trust_remote_code: Whether code from the checkpoint may run.
    """

    file_name = "loading_config.json"
    dtype: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False

    @property
    def source(self) -> dict[str, Any]:
        """What configs, tokenizers and models without weights are loaded with."""
        return {"trust_remote_code": self.trust_remote_code}
