"""Checkpoints and calibration sets on the Hub: pushed with their cards, pulled and checked."""

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo

from .calibration.dataset import CalibrationSet
from .cards.render import card_for
from .errors import DataError
from .formats import CALIBRATION_TABLE, MANIFEST_FILE, ROLLOUTS_TABLE
from .hub.names import split_revision
from .hub.publish import publish_folder
from .hub.pull import pull_folder


def push_with_card(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Publish the folder of a checkpoint or of a calibration set, in one commit; what users wrote on its card is kept.

    Args:
        folder: What `SSGRPruner.save_pretrained` or `CalibrationSet.save_to_disk` wrote.
        repo_id: NAMESPACE/NAME; created where it is missing.
        private: Whether a new repository is private (None: as the namespace has it).
        revision: Branch; `main` by default.
        create_pr: Open a pull request instead.
        token: Defaults to HF_TOKEN or the one that `hf auth login` saved.

    Returns:
        The commit; the head of the branch where nothing differs from it.

    Raises:
        DataError: The folder is neither, or holds what must not be pushed.
        HubError: The Hub refuses, or cannot be reached for minutes.
    """
    options = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
    return publish_folder(folder, repo_id, card_for(folder, repo_id), **options)


def push_calibration_set(
    calibration: CalibrationSet,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> CommitInfo:
    """Publish a set as a data set on the Hub, in one commit; what users wrote on its card is kept.

    Args:
        calibration: The set.
        repo_id: NAMESPACE/NAME; created where it is missing.
        private: See `push_with_card`, as for the others.
        revision: Branch.
        create_pr: Open a pull request instead.
        token: Hub token.

    Returns:
        The commit; the head of the branch where nothing differs from it.

    Raises:
        HubError: The Hub refuses, or cannot be reached for minutes.
    """
    with TemporaryDirectory() as name:
        folder = Path(name) / "set"
        calibration.save_to_disk(folder)
        options = {"private": private, "revision": revision, "create_pr": create_pr, "token": token}
        return push_with_card(folder, repo_id, **options)


def pull_calibration_set(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None, with_rollouts: bool = True
) -> CalibrationSet:
    """Download a set and check that it is whole; the commit goes into the manifest as `hub`.

    Args:
        repo_id: NAMESPACE/NAME.
        revision: Branch, tag or commit.
        token: Hub token.
        with_rollouts: See `CalibrationSet.load_from_disk`; where they are not wanted, they are not downloaded.

    Raises:
        HubError: The Hub refuses, or cannot be reached.
        DataError: The data set is not a calibration set, or was cut or changed.
    """
    files = [MANIFEST_FILE, CALIBRATION_TABLE, *([ROLLOUTS_TABLE] if with_rollouts else [])]
    folder, commit = pull_folder(repo_id, repo_type="dataset", revision=revision, token=token, allow_patterns=files)
    try:
        loaded = CalibrationSet.load_from_disk(folder, with_rollouts=with_rollouts)
    except DataError as error:
        raise DataError(str(error).replace(str(folder), f"{repo_id}@{commit}")) from None
    manifest = dataclasses.replace(loaded.manifest, hub={"id": repo_id, "commit": commit})
    return dataclasses.replace(loaded, manifest=manifest)


def load_calibration_set(source: str | Path, *, token: str | bool | None = None, with_rollouts: bool = True) -> CalibrationSet:
    """Read a set from a folder, or from the Hub by `ID` or `ID@REVISION`.

    Args:
        source: Folder or Hub id.
        token: Hub token.
        with_rollouts: See `CalibrationSet.load_from_disk`.

    Raises:
        DataError: There is no calibration set, or one that was cut or changed.
        HubError: The Hub refuses, or cannot be reached.
    """
    repo_id, revision = split_revision(str(source))
    if Path(source).exists() or repo_id.count("/") != 1:
        return CalibrationSet.load_from_disk(source, with_rollouts=with_rollouts)
    return pull_calibration_set(repo_id, revision=revision, token=token, with_rollouts=with_rollouts)
