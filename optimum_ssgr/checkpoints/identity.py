"""Which weights a checkpoint holds, by the SHA-256 of its files, which the Hub tells without a download."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from tqdm.auto import tqdm

from ..compat import sha256
from ..hub.client import call_hub
from .inspect import checkpoint_files


def hash_weights(folder: str | Path) -> dict[str, str]:
    """Hash the safetensors files of a checkpoint.

    Args:
        folder: Folder of the checkpoint.

    Returns:
        The SHA-256 of each file by its name.

    Raises:
        DataError: There are no safetensors files, or some are missing.
    """
    hashes = {}
    for path in tqdm(checkpoint_files(folder), desc="hash weights", unit="file", leave=False):
        with path.open("rb") as file:
            hashes[path.relative_to(folder).as_posix()] = sha256(file)
    return hashes


def hub_weights(repo_id: str, commit: str) -> dict[str, str]:
    """Look up the hashes of the large files of a commit on the Hub.

    Args:
        repo_id: NAMESPACE/NAME of a model.
        commit: The commit.

    Returns:
        The SHA-256 of each file by its path.

    Raises:
        HubError: The Hub refuses, or cannot be reached.
    """
    entries = call_hub(lambda: list(HfApi().list_repo_tree(repo_id, revision=commit, recursive=True)), repo_id, tries=3)
    return {entry.path: entry.lfs.sha256 for entry in entries if isinstance(entry, RepoFile) and entry.lfs}
