"""The calibration set: sequences, the rollouts they were chosen from, and a manifest of how they came about."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from typing_extensions import Self

from ..errors import DataError
from ..output import new_folder
from ..records import CalibrationSequence, GradedRollout
from .selection import pass_rates


MANIFEST = "manifest.json"
CALIBRATION_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "sample": Value("int32"),
        "prompt_ids": List(Value("int32")),
        "response_ids": List(Value("int32")),
        "num_tokens": Value("int32"),
        "selected_by": Value("string"),
    }
)
ROLLOUT_FEATURES = Features(
    {
        "problem_id": Value("string"),
        "problem": Value("string"),
        "answer": Value("string"),
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


def content_hash(sequences: Sequence[Sequence[int]], token_weights: Sequence[Sequence[float]] | None = None) -> str:
    """Hash token ids and their weights, so that two sets are the same exactly when their hashes are."""
    digest = hashlib.sha256()
    for values in (*sequences, *(token_weights or ())):
        digest.update((",".join(map(str, values)) + "\n").encode())
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
    def build(cls, sequences: Sequence[CalibrationSequence], graded: Sequence[GradedRollout], manifest: dict[str, Any]) -> Self:
        """Make a set from selected sequences.

        Args:
            sequences: What was selected, in order.
            graded: All rollouts; empty when the strategy needs none.
            manifest: Provenance; counts and the content hash are added.
        """
        rates = pass_rates(graded)
        dataset = Dataset.from_list(
            [
                {
                    "problem_id": sequence.problem_id,
                    "sample": sequence.sample,
                    "prompt_ids": list(sequence.prompt_ids),
                    "response_ids": list(sequence.response_ids),
                    "num_tokens": len(sequence.input_ids),
                    "selected_by": sequence.selected_by,
                }
                for sequence in sequences
            ],
            features=CALIBRATION_FEATURES,
        )
        rollouts = _rollout_table(graded, rates) if graded else None
        counts = {
            "problems": len(rates),
            "rollouts": len(graded),
            "finished": sum(item.rollout.finished for item in graded),
            "correct": sum(item.verdict.correct for item in graded),
            "sequences": len(sequences),
            "tokens": sum(len(sequence.input_ids) for sequence in sequences),
        }
        hashed = content_hash([sequence.input_ids for sequence in sequences])
        return cls(dataset, rollouts, {**manifest, "counts": counts, "content_hash": hashed})

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of every sequence, prompt and response together, exactly as generated."""
        return [row["prompt_ids"] + row["response_ids"] for row in self.dataset]

    def save_to_disk(self, folder: str | Path) -> None:
        """Write the set as Parquet files and a manifest; the folder appears only when all of it is there.

        Raises:
            OutputError: The folder is in use or cannot be written.
        """
        with new_folder(folder) as partial:
            for name, data in (("calibration", self.dataset), ("rollouts", self.rollouts)):
                if data is not None:
                    (partial / name).mkdir()
                    data.to_parquet(partial / name / "train.parquet")
            (partial / MANIFEST).write_text(json.dumps(self.manifest, indent=2) + "\n")

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
        except FileNotFoundError as error:
            raise DataError(f"{folder} is not a calibration set: {Path(error.filename).name} is missing.") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise DataError(f"the manifest of {folder} is damaged; build the calibration set again.") from None
        loaded = cls(dataset, rollouts, manifest)
        if content_hash(loaded.sequences) != manifest.get("content_hash"):
            raise DataError(f"the sequences in {folder} do not match its manifest; build the calibration set again.")
        return loaded


def _rollout_table(graded: Sequence[GradedRollout], rates: dict[str, float]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "problem_id": item.problem.id,
                "problem": item.problem.question,
                "answer": item.problem.answer,
                "sample": item.rollout.sample,
                "prompt_ids": list(item.rollout.prompt_ids),
                "response_ids": list(item.rollout.response_ids),
                "response": item.text,
                "num_tokens": len(item.rollout.response_ids),
                "extracted_answer": item.verdict.answer,
                "correct": item.verdict.correct,
                "finished": item.rollout.finished,
                "thought": item.verdict.thought,
                "pass_rate": rates[item.problem.id],
            }
            for item in graded
        ],
        features=ROLLOUT_FEATURES,
    )


def _read_parquet(path: Path, features: Features) -> Dataset:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is damaged ({error}); build the calibration set again.") from None
    missing = set(features) - set(table.column_names)
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}.")
    return Dataset(table.select(list(features)).cast(features.arrow_schema))
