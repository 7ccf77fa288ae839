"""The calibration set: sequences, the rollouts they were chosen from, and a manifest of how they came about."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from datasets import Dataset, Features, List, Value
from huggingface_hub import CommitInfo
from typing_extensions import Self

from ..config import CalibrationConfig
from ..errors import DataError
from ..files import new_folder
from ..records import CalibrationSequence, GradedRollout, Problem, Rollout, Verdict
from ..tokens import content_hash
from .funnel import funnel
from .selection import pass_rates


MANIFEST = "manifest.json"
HISTOGRAMS = "histograms.png"
CALIBRATION_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
        "sample": Value("int32"),
        "prompt_ids": List(Value("int32")),
        "response_ids": List(Value("int32")),
        "token_weights": List(Value("float32")),
        "response": Value("string"),
        "num_tokens": Value("int32"),
        "correct": Value("bool"),
        "pass_rate": Value("float32"),
        "selected_by": Value("string"),
    }
)
ROLLOUT_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
        "answer_kind": Value("string"),
        "sample": Value("int32"),
        "prompt_ids": List(Value("int32")),
        "response_ids": List(Value("int32")),
        "response": Value("string"),
        "num_tokens": Value("int32"),
        "extracted_answer": Value("string"),
        "correct": Value("bool"),
        "finished": Value("bool"),
        "thought": Value("bool"),
        "pass_rate": Value("float32"),
    }
)


def rollouts_hash(rollouts: Dataset | None) -> str | None:
    """Hash every value of every rollout, so that none can be changed, left out or added; None without rollouts."""
    if rollouts is None:
        return None
    digest = hashlib.sha256()
    for row in rollouts:
        digest.update((json.dumps(row, sort_keys=True) + "\n").encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class CalibrationSet:
    """Token sequences to calibrate on, with everything needed to judge and repeat their making.

    Args:
        dataset: One row per sequence, with `CALIBRATION_FEATURES`.
        rollouts: One row per rollout, with `ROLLOUT_FEATURES`; None when nothing was generated.
        manifest: Model, tokenizer, settings, counts and content hash.
    """

    dataset: Dataset
    rollouts: Dataset | None
    manifest: dict[str, Any]

    @classmethod
    def build(
        cls,
        sequences: Sequence[CalibrationSequence],
        graded: Sequence[GradedRollout],
        manifest: dict[str, Any],
        config: CalibrationConfig,
    ) -> Self:
        """Make a set from selected sequences.

        Args:
            sequences: What was selected, in order.
            graded: All rollouts; empty when the strategy needs none.
            manifest: Provenance; counts and content hashes are added.
            config: What the sequences were selected by.
        """
        rates = pass_rates(graded)
        dataset = _table(_calibration_columns(sequences, graded, rates), CALIBRATION_FEATURES)
        rollouts = _table(_rollout_columns(graded, rates), ROLLOUT_FEATURES) if graded else None
        made = cls(dataset, rollouts, {**manifest, "counts": funnel(graded, sequences, config)})
        return cls(dataset, rollouts, {**made.manifest, "content_hash": made._hash(), "rollouts_hash": rollouts_hash(rollouts)})

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of every sequence, prompt and response together, exactly as generated."""
        return [row["prompt_ids"] + row["response_ids"] for row in self.dataset]

    @property
    def token_weights(self) -> list[list[float]] | None:
        """How much every token counts; None when all count once."""
        weights = self.dataset["token_weights"]
        if not any(of for of in weights):
            return None
        return [of or [1.0] * row["num_tokens"] for of, row in zip(weights, self.dataset, strict=True)]

    @property
    def config(self) -> CalibrationConfig:
        """The settings the set was made with."""
        return CalibrationConfig.from_dict(self.manifest["calibration"])

    def graded_rollouts(self) -> list[GradedRollout]:
        """Return the rollouts as they were graded, to select from them again.

        Raises:
            DataError: The set has no rollouts.
        """
        if self.rollouts is None:
            raise DataError("this calibration set holds no rollouts to select from; its strategy needed none.")
        return [
            GradedRollout(
                Problem(row["problem_id"], row["problem"], row["answer"], answer_kind=row["answer_kind"]),
                Rollout(
                    row["problem_id"], row["sample"], tuple(row["prompt_ids"]), tuple(row["response_ids"]), row["finished"]
                ),
                Verdict(row["extracted_answer"], row["correct"], row["thought"]),
                row["response"],
            )
            for row in self.rollouts
        ]

    def save_to_disk(self, folder: str | Path, card: str | None = None) -> None:
        """Write the set as Parquet files, a manifest and histograms; the folder appears only when all of it is there.

        Args:
            folder: Where to write; must be new or empty.
            card: Contents of `README.md`, see `cards.render.dataset_card`; none when None.

        Raises:
            OutputError: The folder is in use or cannot be written.
        """
        with new_folder(folder) as partial:
            for name, data in (("calibration", self.dataset), ("rollouts", self.rollouts)):
                if data is not None:
                    (partial / name).mkdir()
                    pyarrow.parquet.write_table(data.data.table, partial / name / "train.parquet")
            (partial / MANIFEST).write_text(json.dumps(self.manifest, indent=2) + "\n")
            if card is not None:
                (partial / "README.md").write_text(card, encoding="utf-8")
            if self.rollouts is not None:
                from .plots import plot_histograms  # whoever saves no rollouts need not load matplotlib

                plot_histograms(self.rollouts, self.dataset, self.config, partial / HISTOGRAMS)

    @classmethod
    def load_from_disk(cls, folder: str | Path) -> Self:
        """Read a set and check that it is whole.

        Raises:
            DataError: The folder holds no calibration set, or one that was cut or changed.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            dataset = _read_parquet(folder / "calibration" / "train.parquet", CALIBRATION_FEATURES)
            path = folder / "rollouts" / "train.parquet"
            rollouts = _read_parquet(path, ROLLOUT_FEATURES) if path.exists() else None
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = Path(error.filename or "calibration/train.parquet").name  # Arrow does not say which
            raise DataError(f"{folder} is not a calibration set: {missing} is missing.") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise DataError(f"the manifest of {folder} is damaged; build the calibration set again.") from None
        if not isinstance(manifest, dict) or not {"calibration", "counts", "content_hash"} <= manifest.keys():
            raise DataError(f"the manifest of {folder} is not one of a calibration set; build the calibration set again.")
        loaded = cls(dataset, rollouts, manifest)
        if loaded._hash() != manifest.get("content_hash"):
            raise DataError(f"the sequences in {folder} do not match its manifest; build the calibration set again.")
        if rollouts_hash(rollouts) != manifest.get("rollouts_hash"):
            raise DataError(f"the rollouts in {folder} do not match its manifest; build the calibration set again.")
        return loaded

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | None = None,
    ) -> CommitInfo:
        """Publish the set as a data set on the Hub, in one commit; what users wrote on its card is kept.

        Args:
            repo_id: NAMESPACE/NAME; created where it is missing.
            private: Whether a new repository is private (None: as the namespace has it).
            revision: Branch; `main` by default.
            create_pr: Open a pull request instead.
            token: Defaults to HF_TOKEN or the one that `hf auth login` saved.

        Returns:
            The commit; the head of the branch where nothing differs from it.

        Raises:
            HubError: The Hub refuses, or cannot be reached for minutes.
        """
        from ..cards.render import card_for
        from ..hub.publish import publish_folder

        with TemporaryDirectory() as name:
            folder = Path(name) / "set"
            self.save_to_disk(folder)
            options = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
            return publish_folder(folder, repo_id, card_for(folder, repo_id), **options)

    @classmethod
    def from_hub(cls, repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> Self:
        """Download a set and check that it is whole; the commit goes into the manifest as `hub`.

        Args:
            repo_id: NAMESPACE/NAME.
            revision: Branch, tag or commit.
            token: Hub token.

        Raises:
            HubError: The Hub refuses, or cannot be reached.
            DataError: The data set is not a calibration set, or was cut or changed.
        """
        from ..hub.pull import pull_folder

        files = [MANIFEST, *(f"{name}/train.parquet" for name in ("calibration", "rollouts"))]
        folder, commit = pull_folder(repo_id, repo_type="dataset", revision=revision, token=token, allow_patterns=files)
        try:
            loaded = cls.load_from_disk(folder)
        except DataError as error:
            raise DataError(str(error).replace(str(folder), f"{repo_id}@{commit}")) from None
        return cls(loaded.dataset, loaded.rollouts, loaded.manifest | {"hub": {"id": repo_id, "commit": commit}})

    @classmethod
    def load(cls, source: str | Path, *, token: str | bool | None = None) -> Self:
        """Read a set from a folder, or from the Hub by `ID` or `ID@REVISION`.

        Raises:
            DataError: There is no calibration set, or one that was cut or changed.
            HubError: The Hub refuses, or cannot be reached.
        """
        from ..hub.pull import split_revision

        repo_id, revision = split_revision(str(source))
        if Path(source).exists() or repo_id.count("/") != 1:
            return cls.load_from_disk(source)
        return cls.from_hub(repo_id, revision=revision, token=token)

    def _hash(self) -> str:
        return content_hash(self.sequences, self.token_weights)


def _calibration_columns(
    sequences: Sequence[CalibrationSequence], graded: Sequence[GradedRollout], rates: dict[str, float]
) -> dict[str, list[Any]]:
    """Columns of the selected sequences; what is known of their rollouts stands beside them."""
    known = {(item.problem.id, item.rollout.sample): item for item in graded}
    items = [known.get((sequence.problem_id, sequence.sample)) for sequence in sequences]
    return {
        "problem_id": [sequence.problem_id for sequence in sequences],
        "problem": [item and item.problem.question for item in items],
        "answer": [item and item.problem.answer for item in items],
        "sample": [sequence.sample for sequence in sequences],
        "prompt_ids": [np.asarray(sequence.prompt_ids, np.int32) for sequence in sequences],
        "response_ids": [np.asarray(sequence.response_ids, np.int32) for sequence in sequences],
        "token_weights": [
            None if sequence.token_weights is None else np.asarray(sequence.token_weights, np.float32) for sequence in sequences
        ],
        "response": [item and item.text for item in items],
        "num_tokens": [len(sequence.input_ids) for sequence in sequences],
        "correct": [item and item.verdict.correct for item in items],
        "pass_rate": [item and rates[item.problem.id] for item in items],
        "selected_by": [sequence.selected_by for sequence in sequences],
    }


def _rollout_columns(graded: Sequence[GradedRollout], rates: dict[str, float]) -> dict[str, list[Any]]:
    return {
        "problem_id": [item.problem.id for item in graded],
        "problem": [item.problem.question for item in graded],
        "answer": [item.problem.answer for item in graded],
        "answer_kind": [item.problem.answer_kind for item in graded],
        "sample": [item.rollout.sample for item in graded],
        "prompt_ids": [np.asarray(item.rollout.prompt_ids, np.int32) for item in graded],
        "response_ids": [np.asarray(item.rollout.response_ids, np.int32) for item in graded],
        "response": [item.text for item in graded],
        "num_tokens": [len(item.rollout.response_ids) for item in graded],
        "extracted_answer": [item.verdict.answer for item in graded],
        "correct": [item.verdict.correct for item in graded],
        "finished": [item.rollout.finished for item in graded],
        "thought": [item.verdict.thought for item in graded],
        "pass_rate": [rates[item.problem.id] for item in graded],
    }


def _table(columns: dict[str, list[Any]], features: Features) -> Dataset:
    # Arrow takes arrays of token ids as they are; lists of lists of Python numbers would take nine times the memory.
    return Dataset(pyarrow.table(columns, schema=features.arrow_schema))


def _read_parquet(path: Path, features: Features) -> Dataset:
    try:
        table = pyarrow.parquet.read_table(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (pyarrow.ArrowException, OSError) as error:  # Arrow says OSError of pages that cannot be decompressed
        raise DataError(f"{path} is damaged or cannot be read ({error}); build the calibration set again.") from None
    missing = set(features) - set(table.column_names)
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}.")
    return Dataset(table.select(list(features)).cast(features.arrow_schema))
