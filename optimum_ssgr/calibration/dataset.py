"""The calibration set: sequences, the rollouts they were chosen from, and a manifest of how they came about."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from datasets import Dataset
from huggingface_hub import CommitInfo
from typing_extensions import Self

from ..config import CalibrationConfig
from ..errors import DataError
from ..files import new_folder
from ..formats import CALIBRATION_TABLE, CARD_FILE, HISTOGRAMS_FILE, MANIFEST_FILE, ROLLOUTS_TABLE, Manifest, Origin
from ..records import CalibrationSequence, GradedRollout
from ..tokens import content_hash
from .batches import read_parquet, write_parquet
from .funnel import count_funnel, count_kinds
from .tables import (
    CALIBRATION_FEATURES,
    ROLLOUT_FEATURES,
    hash_rollouts,
    make_calibration_table,
    make_rollouts_table,
    read_rollouts,
    read_token_ids,
    read_token_weights,
)
from .windows import compute_pass_rates


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
    manifest: Manifest

    @classmethod
    def build(
        cls,
        sequences: Sequence[CalibrationSequence],
        graded: Sequence[GradedRollout],
        origin: Origin,
        config: CalibrationConfig,
    ) -> Self:
        """Make a set from selected sequences.

        Args:
            sequences: What was selected, in order.
            graded: All rollouts; empty when the strategy needs none.
            origin: Where they come from.
            config: What the sequences were selected by.
        """
        rates = compute_pass_rates(graded)
        dataset = make_calibration_table(sequences, graded, rates)
        rollouts = make_rollouts_table(graded, rates) if graded else None
        selected = {
            "calibration": config.to_dict(),
            "counts": count_funnel(graded, sequences, config),
            "kinds": count_kinds(graded, sequences),
            "content_hash": content_hash(read_token_ids(dataset), read_token_weights(dataset)),
            "rollouts_hash": hash_rollouts(rollouts),
        }
        known = {field.name: getattr(origin, field.name) for field in dataclasses.fields(Origin)}
        return cls(dataset, rollouts, Manifest(**known, **selected))

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of every sequence, prompt and response together, exactly as generated."""
        return read_token_ids(self.dataset)

    @property
    def token_weights(self) -> list[list[float]] | None:
        """How much every token counts; None when all count once."""
        return read_token_weights(self.dataset)

    @property
    def prompts(self) -> list[int]:
        """How many of each sequence's first tokens are its prompt."""
        return [len(ids) for ids in self.dataset["prompt_ids"]]

    @property
    def config(self) -> CalibrationConfig:
        """The settings the set was made with."""
        return self.manifest.config

    def without_rollouts(self) -> Self:
        """Return the sequences alone, which is all that pruning needs."""
        return dataclasses.replace(self, rollouts=None, manifest=dataclasses.replace(self.manifest, rollouts_hash=None))

    def graded_rollouts(self) -> list[GradedRollout]:
        """Return the rollouts as they were graded, to select from them again; token ids and texts are read when looked at.

        Raises:
            DataError: The set has no rollouts.
        """
        if self.rollouts is None:
            raise DataError("this calibration set holds no rollouts to select from; its strategy needed none.")
        return read_rollouts(self.rollouts)

    def save_to_disk(self, folder: str | Path, card: str | None = None) -> None:
        """Write the set as Parquet files, a manifest and histograms; the folder appears only when all of it is there.

        Args:
            folder: Where to write; must be new or empty.
            card: Contents of `README.md`, see `cards.render.dataset_card`; none when None.

        Raises:
            OutputError: The folder is in use or cannot be written.
        """
        manifest = self.manifest if self.rollouts is not None else self.without_rollouts().manifest
        with new_folder(folder) as partial:
            for table, data in ((CALIBRATION_TABLE, self.dataset), (ROLLOUTS_TABLE, self.rollouts)):
                if data is not None:
                    (partial / table).parent.mkdir()
                    write_parquet(data, partial / table)
            (partial / MANIFEST_FILE).write_text(manifest.to_json())
            if card is not None:
                (partial / CARD_FILE).write_text(card, encoding="utf-8")
            if self.rollouts is not None:
                from .plots import plot_histograms  # whoever saves no rollouts need not load matplotlib

                plot_histograms(self.rollouts, self.dataset, manifest, partial / HISTOGRAMS_FILE)

    @classmethod
    def load_from_disk(cls, folder: str | Path, *, with_rollouts: bool = True) -> Self:
        """Read a set and check that it is whole.

        Args:
            folder: Where it is.
            with_rollouts: Whether the rollouts are read, too. Pruning takes the sequences alone, and rollouts can be a hundred
                times as large; those left out are still named in the manifest.

        Raises:
            DataError: The folder holds no calibration set, or one that was cut or changed.
        """
        folder = Path(folder)
        try:
            written = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            dataset = read_parquet(folder / CALIBRATION_TABLE, CALIBRATION_FEATURES)
            path = folder / ROLLOUTS_TABLE
            rollouts = read_parquet(path, ROLLOUT_FEATURES) if with_rollouts and path.exists() else None
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = Path(error.filename or CALIBRATION_TABLE).name  # Arrow does not say which
            raise DataError(f"{folder} is not a calibration set: {missing} is missing.") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise DataError(f"the manifest of {folder} is damaged; build the calibration set again.") from None
        try:
            manifest = Manifest.from_dict(written)
        except DataError:
            raise DataError(
                f"the manifest of {folder} is not one of a calibration set; build the calibration set again."
            ) from None
        if content_hash(read_token_ids(dataset), read_token_weights(dataset)) != manifest.content_hash:
            raise DataError(f"the sequences in {folder} do not match its manifest; build the calibration set again.")
        if with_rollouts and hash_rollouts(rollouts) != manifest.rollouts_hash:
            raise DataError(f"the rollouts in {folder} do not match its manifest; build the calibration set again.")
        return cls(dataset, rollouts, manifest)

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
        options = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
        return _sharing().push_calibration_set(self, repo_id, **options)

    @staticmethod
    def from_hub(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> "CalibrationSet":
        """Download a set and check that it is whole; the commit goes into the manifest as `hub`.

        Args:
            repo_id: NAMESPACE/NAME.
            revision: Branch, tag or commit.
            token: Hub token.

        Raises:
            HubError: The Hub refuses, or cannot be reached.
            DataError: The data set is not a calibration set, or was cut or changed.
        """
        return _sharing().pull_calibration_set(repo_id, revision=revision, token=token)

    @staticmethod
    def load(source: str | Path, *, token: str | bool | None = None) -> "CalibrationSet":
        """Read a set from a folder, or from the Hub by `ID` or `ID@REVISION`.

        Raises:
            DataError: There is no calibration set, or one that was cut or changed.
            HubError: The Hub refuses, or cannot be reached.
        """
        return _sharing().load_calibration_set(source, token=token)


def _sharing() -> ModuleType:
    # The only import of a later stage by an earlier one: a set offers what can be done with it, also on the Hub, and what does
    # it comes after the cards, which come after the sets.
    from .. import sharing

    return sharing
