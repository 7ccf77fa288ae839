"""Publish a checkpoint or a calibration set: its folder in one commit, with the card that users may have edited."""

import warnings
from pathlib import Path

from huggingface_hub import CommitInfo

from ..errors import DataError
from ..formats import (
    CALIBRATION_FOLDER,
    CALIBRATION_TABLE,
    CARD_FILE,
    HISTOGRAMS_FILE,
    MANIFEST_FILE,
    PROVENANCE_FILE,
    ROLLOUTS_TABLE,
)
from .push import Merge, files_of, push_folder


# The file that each kind of folder is known by.
KNOWN_BY = {PROVENANCE_FILE: "model", MANIFEST_FILE: "dataset"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_SET = (CALIBRATION_TABLE, ROLLOUTS_TABLE, HISTOGRAMS_FILE)
_NUMBER = "[0-9]" * 5
# What an earlier push may have left that this one does not have: loaders would still find it. No name that a user may have
# chosen fits: a * would also match in folders.
STALE = {
    "model": (
        "model.safetensors",
        f"model-{_NUMBER}-of-{_NUMBER}.safetensors",
        "model.safetensors.index.json",
        *(f"{CALIBRATION_FOLDER}/{name}" for name in (MANIFEST_FILE, CARD_FILE, *_SET)),
    ),
    "dataset": _SET,
}


def repo_type_of(folder: Path) -> str:
    """Tell whether a folder is a checkpoint ("model") or a calibration set ("dataset").

    Raises:
        DataError: It is neither, or holds a pickle or a link that leads out of it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} to push.")
    pickled = next((path for path in files_of(folder) if path.endswith(PICKLES)), None)
    if pickled:
        raise DataError(f"{folder / pickled} may be a pickle, which can run code where it is loaded; remove it before pushing.")
    for name, repo_type in KNOWN_BY.items():
        if (folder / name).is_file():
            return repo_type
    raise DataError(
        f"{folder} is neither a checkpoint ({PROVENANCE_FILE}) nor a calibration set ({MANIFEST_FILE}) of optimum-ssgr."
    )


def publish_folder(
    folder: Path,
    repo_id: str,
    card: Merge,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    message: str = "Upload with optimum-ssgr",
) -> CommitInfo:
    """Push a checkpoint or a calibration set as one commit.

    Args:
        folder: What `SSGRPruner.save_pretrained` or `CalibrationSet.save_to_disk` wrote.
        repo_id: NAMESPACE/NAME; created where it is missing.
        card: Makes the card out of the one on the Hub, which is None where there is none, and the commit that it is in.
        private: See `push_folder`, as for the others.
        revision: Branch.
        create_pr: Open a pull request instead.
        token: Hub token.
        message: First line of the commit's message.

    Returns:
        The commit; the head of the branch where nothing differs from it.

    Raises:
        DataError: The folder is neither, or holds a pickle or a link that leads out of it.
        HubError: The Hub refuses, or cannot be reached for minutes.
    """
    repo_type = repo_type_of(folder)
    with warnings.catch_warnings():
        # of a checkpoint's calibration set, which is meant to be there
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        return push_folder(
            folder,
            repo_id,
            repo_type=repo_type,
            private=private,
            revision=revision,
            create_pr=create_pr,
            token=token,
            message=message,
            delete_patterns=STALE[repo_type],
            merge={CARD_FILE: card},
        )
