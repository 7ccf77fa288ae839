"""What all steps of a study share: problems and text, read and checked before any work."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.select import encode_text
from ..calibration.strategies import Sources, select
from ..calibration.text import characters_for
from ..checkpoints.load import load_skeleton, load_tokenizer
from ..compat import model_commit, model_name
from ..errors import DataError
from ..evaluation.prepare import check_prompts, cut_windows, load_evaluation_set, load_evaluation_text
from ..evaluation.results import versions
from ..problems.documents import load_documents
from ..problems.load import draw_problems
from ..problems.mixture import ProblemSet, instruction_of, mix_problems
from ..problems.options import ProblemOptions
from ..problems.overlap import remove_overlap
from ..problems.rows import FILE_FORMATS
from ..problems.sources import is_endless
from ..pruning.prunable import check_prunable
from ..records import Problem
from ..rollouts.cache import check_batchable
from ..rollouts.prompts import encode_prompts
from .config import StudyConfig, short_name


TEXT_WINDOWS = 64
"""Windows of general text that perplexity is measured on at most."""


@dataclass(frozen=True)
class StudyInputs:
    """What all steps share.

    Args:
        config: What the study compares and how.
        journal: Folder for what is finished.
        calibration_problems: Problems to calibrate on, by seed.
        text: Documents of general text.
        evaluation_sets: Problems to evaluate on, by the name of their set.
        instructions: What is added to the questions, by the name of the set; of the calibration problems by None, but for
            those that have their own.
        windows: General text to measure perplexity on, token ids of equal length; empty for none.
    """

    config: StudyConfig
    journal: Path
    calibration_problems: dict[int, list[Problem]]
    text: list[str]
    evaluation_sets: dict[str, list[Problem]]
    instructions: dict[str | None, str]
    windows: list[list[int]]

    def result(self, name: str) -> Path:
        """Return the file of a cell's result, or of the dense model's."""
        return self.journal / "cells" / f"{name}.json"

    def calibration_set(self, seed: int, name: str) -> Path:
        """Return the folder of a calibration set."""
        return self.journal / "calibration" / str(seed) / name.replace(":", "_")

    def dense_nll(self, seed: int) -> Path:
        """Return the file of how likely the dense model finds the correct rollouts of a seed."""
        return self.journal / f"dense-nll-{seed}.json"

    def checkpoint(self, calibration: str | None) -> Path:
        """Return the folder of a checkpoint that is kept."""
        return self.journal / "checkpoints" / (calibration or "none").replace(":", "_")

    @property
    def kept_calibration_set(self) -> Path:
        """The folder of the calibration set that is kept with its rollouts."""
        return self.journal / "calibration-set"

    @property
    def reference(self) -> Path:
        """The file of the dense model's hidden states."""
        return self.journal / "reference.safetensors"


def read_inputs(config: StudyConfig, journal: Path) -> StudyInputs:
    """Read problems and text, and refuse what cannot be asked, pruned or filled, before any work.

    Args:
        config: What the study compares and how.
        journal: Folder for what is finished; not touched.

    Raises:
        SSGRError: The model, the problems or the text cannot be used.
    """
    skeleton = load_skeleton(config.model, **config.loading.source)
    if commit := model_commit(skeleton):  # every cell is of the same model, also where its branch moves on meanwhile
        config = dataclasses.replace(config, model=f"{model_name(skeleton)}@{commit}")
    check_batchable(skeleton.config, config.model)  # every cell is evaluated in this process
    for pruning in {cell.pruning for cell in config.cells}:
        check_prunable(skeleton, pruning)
    reading = ProblemOptions(split=config.evaluation_split, limit=config.num_evaluation_problems)
    sets = {short_name(name): load_evaluation_set(reading, name, config.calibration.seed) for name in config.evaluation_names}
    # Also for strategies that are added when the study goes on.
    text = load_documents(config.text, characters_for(config.calibration)) if config.text else []
    inputs = StudyInputs(
        config=config,
        journal=journal,
        calibration_problems=_calibration_problems(config, sets),
        text=text,
        evaluation_sets=sets,
        instructions={short_name(name): config.instruction_for(name) for name in config.evaluation_names}
        | {None: instruction_of(config.problem_sets)},
        windows=_evaluation_windows(config),
    )
    asked = [problem for of_seed in inputs.calibration_problems.values() for problem in of_seed]
    for name, problems in {None: asked, **sets}.items():
        longest = config.evaluation.max_new_tokens
        check_prompts(config.model, config.loading, problems, inputs.instructions[name], longest, config.prompting)
    _check_budget(inputs)
    return inputs


def study_metadata(inputs: StudyInputs) -> dict[str, Any]:
    """Say what was studied, without anything that changes from run to run or from folder to folder."""
    config = inputs.config
    own = ("strategy", "seed", "kind_shares")
    calibration = {key: value for key, value in config.calibration.to_dict().items() if key not in own}
    calibration |= {"kind_shares": dict(config.kind_shares)} if config.kind_shares else {}
    return {
        "model": short_name(config.model),
        "dtype": config.loading.dtype,
        "calibration_problems": ", ".join(map(short_name, config.calibration_names)),
        "problems_per_seed": len(inputs.calibration_problems[config.calibration.seed]),
        "strategies": list(config.strategies),
        "methods": list(config.methods),
        "targets": config.targets,
        "bands": list(config.bands),
        "seeds": config.seeds,
        "threads": config.threads,
        "text": config.text and short_name(config.text),
        "calibration": calibration,
        **({"prompting": config.prompting.recorded} if config.prompting.recorded else {}),
        "evaluation": {"sampling": config.evaluation.to_dict(), "samples": config.samples},
        "sets": {name: len(problems) for name, problems in inputs.evaluation_sets.items()},
        "versions": versions(),
    }


def study_fingerprint(inputs: StudyInputs) -> dict[str, Any]:
    """Say what decides the result of a cell, whichever other cells there are."""

    def digest(problems: Sequence[Problem]) -> str:
        return hashlib.sha256(
            repr([(p.id, p.question, p.answer, p.kind, p.instruction) for p in problems]).encode()
        ).hexdigest()

    config, shared = inputs.config, study_metadata(inputs)
    for name in ("strategies", "methods", "targets", "bands", "seeds"):
        del shared[name]
    return shared | {
        "model": config.model,
        "instructions": {str(name): text for name, text in inputs.instructions.items()},
        "device_map": config.loading.device_map,
        "batch_size": config.batch_size,
        "evaluated": {name: digest(problems) for name, problems in inputs.evaluation_sets.items()},
        "asked": digest(inputs.calibration_problems[config.calibration.seed]),
        "text": hashlib.sha256(repr((inputs.text, inputs.windows)).encode()).hexdigest(),
    }


def _calibration_problems(config: StudyConfig, sets: dict[str, list[Problem]]) -> dict[int, list[Problem]]:
    """Load problems to calibrate on for every seed, none of which is evaluated on."""
    found = {one: _problems_of(one, config, sets) for one in config.problem_sets}
    return {seed: mix_problems({one: by_seed[seed] for one, by_seed in found.items()}) for seed in config.seed_range}


def _problems_of(one: ProblemSet, config: StudyConfig, sets: dict[str, list[Problem]]) -> dict[int, list[Problem]]:
    """Load the problems of one set for every seed."""
    if is_endless(one.name):  # then a split shares no question with another
        return {seed: one.reading.load(one.name, evaluation=False, seed=seed) for seed in config.seed_range}
    problems = one.reading.load_all(one.name, seed=config.calibration.seed)
    problems, _ = remove_overlap(problems, [problem for found in sets.values() for problem in found])
    if not problems:
        raise DataError(
            f"every problem of {one.name} to calibrate on is also evaluated on; name another set with --evaluation-problems."
        )
    return {seed: draw_problems(problems, one.reading.limit, seed) for seed in config.seed_range}


def _evaluation_windows(config: StudyConfig) -> list[list[int]]:
    """Cut text to measure perplexity on; none from a file, whose one split is calibrated on."""
    if not config.text or Path(config.text).suffix in (".txt", *FILE_FORMATS):
        return []
    length = config.calibration.text_length
    documents = load_evaluation_text(config.text, None, length * TEXT_WINDOWS)
    return cut_windows(config.model, config.loading, documents, length, TEXT_WINDOWS).tolist()


def _check_budget(inputs: StudyInputs) -> None:
    """Refuse questions and text that cannot fill a calibration set, before there are any rollouts.

    Raises:
        DataError: They have too few tokens.
    """
    config = inputs.config.calibration
    calibrations = inputs.config.calibrations

    def count_tokens(strategy: str, sources: Sources) -> int:
        everything = dataclasses.replace(config, strategy=strategy, num_sequences=None)
        return sum(sequence.num_tokens for sequence in select(sources, everything))

    tokenizer = load_tokenizer(inputs.config.model, **inputs.config.loading.source)
    found: dict[str, tuple[str, float]] = {}
    if "prompts" in calibrations:
        asked = inputs.calibration_problems.values()
        instruction, prompting = inputs.instructions[None], inputs.config.prompting
        prompts = [encode_prompts(tokenizer, problems, instruction, prompting) for problems in asked]
        found["prompts"] = "questions", min(count_tokens("prompts", Sources(prompts=of_seed)) for of_seed in prompts)
    if {"text", "mix"} & set(calibrations):
        sources = encode_text(tokenizer, inputs.text, dataclasses.replace(config, strategy="text"))
        windows = count_tokens("text", sources)
        found |= {"text": ("text", windows), "mix": ("text", windows / config.text_share)}
    for strategy, (what, most) in found.items():
        if strategy in calibrations and most < config.num_tokens:
            raise DataError(
                f"the {what} can fill a calibration set of {int(most):,} tokens by the strategy {strategy}, not of "
                f"{config.num_tokens:,}; take more {what}, lower --num-tokens, or leave the strategy out."
            )
