"""Download a repository at one commit."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from .client import call_hub


def pull_folder(
    repo_id: str, *, repo_type: str, revision: str | None, token: str | bool | None, allow_patterns: Sequence[str]
) -> tuple[Path, str]:
    """Download files of a repository, all from the commit that a revision stands for now.

    Args:
        repo_id: NAMESPACE/NAME.
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; the head of the main branch when None.
        token: Hub token.
        allow_patterns: Which files to download.

    Returns:
        The folder in the cache, and the commit.

    Raises:
        HubError: The Hub refuses, or cannot be reached.
    """
    shared = {"repo_type": repo_type, "token": token}

    def pull() -> tuple[Path, str]:
        commit = HfApi().repo_info(repo_id, revision=revision, **shared).sha
        return Path(snapshot_download(repo_id, revision=commit, allow_patterns=list(allow_patterns), **shared)), commit

    return call_hub(pull, repo_id, tries=3)
