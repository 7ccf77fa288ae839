"""What is written to disk and read by another part of the package: names of files, and records of what is in them."""

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from typing_extensions import Self

from . import __version__
from .config import CalibrationConfig, PruningConfig, RecoveryConfig
from .errors import DataError


PROVENANCE_FILE = "ssgr_config.json"
"""Beside the weights of a checkpoint: a `Provenance`."""
MANIFEST_FILE = "manifest.json"
"""Beside the tables of a calibration set: a `Manifest`."""
CALIBRATION_TABLE = "calibration/train.parquet"
ROLLOUTS_TABLE = "rollouts/train.parquet"
CALIBRATION_FOLDER = "calibration"
"""In the folder of a checkpoint: the calibration set, where it was made for it and is nowhere else."""
HISTOGRAMS_FILE = "histograms.png"
RESULTS_FILE = "results.json"
"""In the folder of an evaluation: every number that was measured."""
CARD_FILE = "README.md"


class _Record:
    """JSON round trip of the records: keys in the order of the fields, what has a default left out while it is None.

    What other versions or users added is kept as it is, in the field `extra`.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "extra":
                values |= value
            elif value is not None or field.default is dataclasses.MISSING:
                values[field.name] = _to_json(value)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a record from `to_dict` output; a key that is missing counts as None where None is possible.

        Raises:
            DataError: Something else is missing, or of another type than it should be.
        """
        if not isinstance(values, Mapping):
            raise DataError(f"a {cls.__name__} maps names to values, which {type(values).__name__} does not.")
        names = [field.name for field in dataclasses.fields(cls) if field.name != "extra"]
        hints = get_type_hints(cls)
        made = {name: _from_json(values.get(name), hints[name], f"{cls.__name__}.{name}") for name in names}
        return cls(**made, extra={name: value for name, value in values.items() if name not in names})

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a record from a JSON file.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: It is damaged, or holds something else.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:  # of JSON and of UTF-8
            raise DataError(f"{path} is not valid JSON.") from None

    def to_json(self) -> str:
        """Return the contents of a JSON file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstSelection(_Record):
    """The set that rollouts were generated for, in the manifest of one that was selected from them again.

    Args:
        calibration: Its settings, with those of sampling.
        content_hash: Hash of its sequences.
        hub: Where it is on the Hub, with `id` and `commit`.
        text: The general text that it took, by its name.
    """

    calibration: dict[str, Any]
    content_hash: str
    hub: dict[str, str] | None = None
    text: str | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> CalibrationConfig:
        """Its settings."""
        return CalibrationConfig.from_dict(self.calibration)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin(_Record):
    """What is known of a calibration set before anything is selected for it.

    Args:
        model: Name of the model that wrote it, or for whose tokenizer it was made.
        model_commit: The model's commit on the Hub.
        dtype: Type of the model's weights.
        tokenizer_hash: What its token ids belong to, see `tokens.tokenizer_hash`.
        versions: Versions of the packages that it was made with.
        instruction: Text that was appended to every question; None when that is not known, or when it is not the same for all.
        prompting: How the model was addressed beside the questions, see `config.PromptConfig`, with what was found out from its
            tokenizer; None when that is not known.
        problems: `read_from` (where each problem comes from), and from the command line how they were asked for: `source`,
            `split`, `num_problems`, `question_column`, `answer_column`, `kind_column` and what was `excluded`. Of several
            problem sets `sets` holds all but the last for each, with its `share` and its `instruction`.
        text: General text, by its name.
        extra: What a user added.
        engine: What generated the rollouts.
        batch_size: Responses generated together.
        damage: How the damage of the rollouts was measured: `pruning`, the settings, and `calibration`, the content hash of
            what was pruned with; None where it was not.
        reselected_from: What the rollouts were generated for, when that was another set.
    """

    model: str
    model_commit: str | None
    dtype: str
    tokenizer_hash: str
    versions: dict[str, str]
    instruction: str | None = None
    prompting: dict[str, Any] | None = None
    problems: dict[str, Any] | None = None
    text: str | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    engine: str | None = None
    batch_size: int | None = None
    damage: dict[str, Any] | None = None
    reselected_from: FirstSelection | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(Origin):
    """Contents of `manifest.json`: how a calibration set came about, and what it must hold.

    Args:
        calibration: The settings of its selection.
        counts: What came through each stage, see `calibration.funnel.count_funnel`.
        content_hash: Hash of the sequences and their weights.
        rollouts_hash: Hash of the rollouts; None without any.
        kinds: What there was and what was selected by kind of problem, see `calibration.funnel.count_kinds`; None where the
            problems are of one kind.
        hub: `id` and `commit` of the data set that it was downloaded from.
    """

    calibration: dict[str, Any]
    counts: dict[str, int]
    content_hash: str
    rollouts_hash: str | None
    kinds: dict[str, dict[str, float | None]] | None = None
    hub: dict[str, str] | None = None

    @property
    def config(self) -> CalibrationConfig:
        """The settings of the selection."""
        return CalibrationConfig.from_dict(self.calibration)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types; what a set shares with the one it was selected from again comes first."""
        values = super().to_dict()
        if self.reselected_from is None:
            return values
        own = ("rollouts_hash", "reselected_from", "text", "calibration", "counts", "content_hash", "kinds", "hub")
        shared = {name: value for name, value in values.items() if name not in own}
        return shared | {name: values[name] for name in own if name in values}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRow(_Record):
    """What was measured of one model on one set of problems, as it stands on a card.

    Args:
        model: `dense` or `sparse`.
        source: Name of the problem set.
        split: Its split.
        sampling: How the responses were sampled, as in `SamplingConfig`.
        prompting: How the model was addressed, as in `Origin`; None in what earlier versions measured.
        problems: Number of problems.
        samples: Number of responses in all.
        read_from: The problem set on the Hub, as `ID@COMMIT`.
        text: Name of the general text that perplexity was measured on.
        text_perplexity: Perplexity on it.
        traces: Number of held-out traces of the dense model; this and the next are as `evaluation.traces.summarize_nll` returns
            them.
        accuracy: Share of right responses to a problem, as a mean over the problems; the others are as
            `evaluation.metrics.summarize` returns them.
        accuracy_ci95: Its 95 % interval; None in what earlier versions measured.
        kinds: The same by kind of problem; this and the next three are as `evaluation.kinds.summarize_kinds` returns them, None
            where the problems are of one kind.
    """

    model: str
    source: str
    split: str | None = None
    sampling: dict[str, Any] | None = None
    prompting: dict[str, Any] | None = None
    problems: int
    samples: int
    read_from: str | None = None
    text: str | None = None
    text_perplexity: float | None = None
    traces: int | None = None
    trace_nll: float | None = None
    trace_nll_se: float | None = None
    trace_nll_rise: float | None = None
    trace_nll_rise_se: float | None = None
    accuracy: float
    accuracy_se: float
    accuracy_ci95: list[float] | None = None
    mean_tokens: float
    median_tokens: float
    p95_tokens: float
    truncated: float
    missing_think_end: float | None
    looping: float
    unreadable: int | None = None
    timed_out: int | None = None
    kinds: dict[str, dict[str, Any]] | None = None
    worst_kind: str | None = None
    worst_kind_accuracy: float | None = None
    worst_kind_accuracy_se: float | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovery(_Record):
    """How a pruned checkpoint was fine-tuned with its zeros kept.

    Args:
        checkpoint: Name of the pruned checkpoint.
        commit: Its commit on the Hub.
        settings: The settings, as in `RecoveryConfig`.
        traces_of: Name of the model that wrote the traces.
        rollouts_hash: Hash of the rollouts that they are taken from.
        hub: Where these are on the Hub, with `id` and `commit`.
        traces: Traces that it was trained on.
        problems: Problems that they answer.
        tokens: Tokens of their responses.
        steps: Steps of the optimizer.
        versions: Versions of the packages that it was made with.
        teacher: Name of the model whose scores were to be met, too; None without one.
        teacher_commit: Its commit on the Hub.
        excluded: Evaluation sets whose problems were left out, and how many those were.
        held_out_problems: Ids of problems whose traces it was not trained on, but measured by.
        held_out: What it gives to those traces, as `evaluation.traces.summarize_nll` returns it, against what the pruned
            checkpoint did; None where there were too few.
    """

    checkpoint: str
    commit: str | None
    settings: dict[str, Any]
    traces_of: str
    rollouts_hash: str | None
    hub: dict[str, str] | None
    traces: int
    problems: int
    tokens: int
    steps: int
    versions: dict[str, str]
    teacher: str | None = None
    teacher_commit: str | None = None
    excluded: dict[str, Any] | None = None
    held_out_problems: list[str] | None = None
    held_out: dict[str, Any] | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> RecoveryConfig:
        """The settings."""
        return RecoveryConfig.from_dict(self.settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance(_Record):
    """Contents of `ssgr_config.json`: how a sparse checkpoint came about.

    Args:
        base_model: Name of the model that was pruned.
        base_commit: Its commit on the Hub.
        dtype: Type of its weights.
        pruning: The settings.
        versions: Versions of the packages that it was made with.
        calibration: Manifest of the calibration set; None when there was none, or tokens without a manifest.
        calibration_folder: Where the set is, beside this file; None where it is not kept there.
        sparsity: What `pruning.report.PruningReport.to_dict` returns.
        takes_images: True for a model of images and text, which transformers loads by a class of its own; else None.
        inherited: What the base model's card states that also holds here: its licence and its languages.
        evaluation: What was measured on it and on the base model.
        held_out: What it gives to traces of the base model that it was not calibrated on, as
            `evaluation.traces.summarize_nll` returns it; None where that was not measured.
        recovery: How it was fine-tuned after pruning; None where it was not.
    """

    base_model: str
    base_commit: str | None
    dtype: str
    pruning: dict[str, Any]
    versions: dict[str, str]
    calibration: Manifest | None
    sparsity: dict[str, Any]
    calibration_folder: str | None = None
    takes_images: bool | None = None
    inherited: dict[str, Any] | None = None
    evaluation: list[EvaluationRow] | None = None
    held_out: dict[str, Any] | None = None
    recovery: Recovery | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> PruningConfig:
        """The settings of pruning."""
        return PruningConfig.from_dict(self.pruning)


def installed_versions(*packages: str) -> dict[str, str]:
    """Return our own version and those of the packages that decide results, by name."""
    return {"optimum-ssgr": __version__} | {name: version(name) for name in packages}


def _to_json(value: Any) -> Any:
    if isinstance(value, _Record):
        return value.to_dict()
    return [_to_json(item) for item in value] if isinstance(value, list) else value


def _from_json(value: Any, hint: Any, name: str) -> Any:
    """Read a value of the type that a field has; `name` is what to call it where it is of another."""
    for kind in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        base = get_origin(kind) or kind
        if issubclass(base, _Record):
            if isinstance(value, Mapping):
                return base.from_dict(value)
        elif base is list:
            if isinstance(value, list):
                return [_from_json(item, *get_args(kind), name) for item in value]
        elif isinstance(value, (int, float) if base is float else base):
            return value
    raise DataError(f"{name} is {'missing' if value is None else f'of the type {type(value).__name__}'}; make the file again.")
