"""Push a folder as one commit that lands whole, once, or not at all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.lfs import UploadInfo
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from ..compat import git_hash, make_commit_info
from ..errors import DataError, HubError
from .access import check_name, check_visibility, find_repo
from .client import call_hub


Merge = Callable[[str | None, str], str]

BATCH_BYTES = 2 * 1024**3


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    message: str = "Upload with optimum-ssgr",
    ignore_patterns: Sequence[str] = (),
    delete_patterns: Sequence[str] = (),
    merge: Mapping[str, Merge] | None = None,
) -> CommitInfo:
    """Commit all files of a folder to a repository on the Hub, which is created where it is missing, like the branch.

    `create_commit` lands whole or not at all, but it is tried only once, and may have landed where its answer was lost. So the
    head is read, what differs from it is committed on condition that it still is the head, and after trouble that may pass all
    of this is done again: what has landed no longer differs, and what is uploaded already is not sent again.

    Args:
        folder: What to push, with all that is in it but hidden folders of git and huggingface_hub.
        repo_id: NAMESPACE/NAME.
        repo_type: "model", "dataset" or "space"; a new Space is one that Gradio serves.
        private: Whether a new repository is private (None: as the namespace has it); an existing one must be so already.
        revision: The branch, or "refs/pr/N" for a pull request; by default "main".
        create_pr: Open a pull request instead.
        token: Defaults to HF_TOKEN or the one that `hf auth login` saved.
        message: First line of the commit's message.
        ignore_patterns: Files of the folder to leave out, as for `upload_folder`.
        delete_patterns: Files on the Hub to delete in the same commit unless they are in the folder, as for
            `upload_folder`: a * also matches in folders.
        merge: For paths of text files, what makes their new text out of that on the Hub, which is None where there is none, and
            the commit that it is in; they need not be in the folder.

    Returns:
        The commit; the head of the branch where nothing differs from it.

    Raises:
        DataError: A link leads out of the folder, or what is to be merged with is not text.
        HubError: The Hub refuses, or cannot be reached for minutes.
    """
    check_name(repo_id)
    folder, merge = Path(folder), merge or {}
    local = filter_repo_objects(files_of(folder), ignore_patterns=[*ignore_patterns, *DEFAULT_IGNORE_PATTERNS])
    paths = [path for path in local if path not in merge]
    if not paths:
        raise HubError(f"there is nothing to push in {folder}.")
    api, repo, branch = HfApi(token=token), {"repo_id": repo_id, "repo_type": repo_type}, revision or "main"
    hashes: dict[str, UploadInfo] = {}
    earlier: set[str] | None = None  # pull requests that were there before this push

    def push() -> CommitInfo:
        nonlocal earlier
        head = _head(api, repo, branch, private, create_branch=not create_pr)
        there = _tree(api, repo, head)
        additions = _additions(folder, paths, hashes, there) + _merged(api, repo, head, merge, there)
        unwanted = filter_repo_objects(there, allow_patterns=list(delete_patterns))
        deletions = [CommitOperationDelete(path) for path in unwanted if path not in (*paths, *merge)]
        if not additions and not deletions:
            return _commit_info(api, repo, head, message)
        if create_pr:
            refs = api.list_repo_refs(**repo, include_pull_requests=True)
            requests = {request.ref: request.target_commit for request in refs.pull_requests}
            earlier = set(requests) if earlier is None else earlier
            for request in requests.keys() - earlier:  # ours, where an answer was lost
                if not _additions(folder, paths, hashes, _tree(api, repo, requests[request])):
                    return _commit_info(api, repo, requests[request], message, request)
        for batch in _batches(additions)[:-1]:  # the last one, which is the only one but for large pushes, goes with the commit
            api.preupload_lfs_files(**repo, additions=batch, revision=branch, create_pr=create_pr, free_memory=False)
        return api.create_commit(
            **repo,
            operations=[*additions, *deletions],
            commit_message=message,
            revision=branch,
            parent_commit=head,
            create_pr=create_pr,
        )

    return call_hub(push, repo_id)


def files_of(folder: Path) -> list[str]:
    """List the files of a folder by their paths in it, sorted.

    Raises:
        DataError: A link leads out of the folder: whoever made it must not choose what else of this machine is published.
    """
    inside, paths = folder.resolve(), []
    for path in sorted(folder.rglob("*")):
        if not path.resolve().is_relative_to(inside):
            raise DataError(f"{path} is a link that leads out of {folder}; remove it, or put what it leads to in its place.")
        if path.is_file():
            paths.append(path.relative_to(folder).as_posix())
    return paths


def _head(api: HfApi, repo: dict[str, str], branch: str, private: bool | None, create_branch: bool) -> str:
    """The head of a branch, after making the repository and the branch where they are missing."""
    found = find_repo(api, **repo)
    if found is None:
        sdk = "gradio" if repo["repo_type"] == "space" else None
        api.create_repo(**repo, private=private, space_sdk=sdk, exist_ok=True)
        found = api.repo_info(**repo)
    check_visibility(repo["repo_id"], found.private, private)
    if branch == "main":
        return found.sha
    try:
        return api.repo_info(**repo, revision=branch).sha
    except RevisionNotFoundError:
        if not create_branch or branch.startswith("refs/"):
            raise
        api.create_branch(**repo, branch=branch, exist_ok=True)
        return api.repo_info(**repo, revision=branch).sha


def _tree(api: HfApi, repo: dict[str, str], commit: str) -> dict[str, RepoFile]:
    """All files of a commit by their paths."""
    entries = api.list_repo_tree(**repo, revision=commit, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _additions(
    folder: Path, paths: Sequence[str], hashes: dict[str, UploadInfo], there: dict[str, RepoFile]
) -> list[CommitOperationAdd]:
    """The files that differ from those there. `hashes` keeps what was hashed, so that a file is read for it once."""
    additions = []
    for path in paths:
        addition = CommitOperationAdd(path, folder / path)
        addition.upload_info = hashes.setdefault(path, addition.upload_info)
        if not _is_same(addition, there.get(path)):
            additions.append(addition)
    return additions


def _merged(
    api: HfApi,
    repo: dict[str, str],
    head: str,
    merge: Mapping[str, Merge],
    there: dict[str, RepoFile],
) -> list[CommitOperationAdd]:
    """The text files that change when what is on the Hub is merged into them."""
    additions = []
    for path, make in merge.items():
        old = None
        if path in there:
            downloaded = Path(api.hf_hub_download(**repo, filename=path, revision=head))
            try:
                old = downloaded.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise DataError(f"the {path} of {repo['repo_id']} is not UTF-8 text; mend or remove it on the Hub.") from None
        new = make(old, head)
        if new != old:
            additions.append(CommitOperationAdd(path, new.encode()))
    return additions


def _batches(additions: Sequence[CommitOperationAdd]) -> list[list[CommitOperationAdd]]:
    """Cut additions into runs of about `BATCH_BYTES`: of what Xet uploads together, nothing is kept before all has arrived."""
    batches, size = [], BATCH_BYTES
    for addition in additions:
        if size >= BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(addition)
        size += addition.upload_info.size
    return batches


def _is_same(addition: CommitOperationAdd, file: RepoFile | None) -> bool:
    if file is None or file.size != addition.upload_info.size:
        return False
    if file.lfs:
        return file.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as content:
        return file.blob_id == git_hash(content.read())


def _commit_info(api: HfApi, repo: dict[str, str], commit: str, message: str, request: str | None = None) -> CommitInfo:
    """What `create_commit` returns, for a commit that has already landed, on a branch or as the pull request "refs/pr/N"."""
    kind = "" if repo["repo_type"] == "model" else f"{repo['repo_type']}s/"
    url = f"{api.endpoint}/{kind}{repo['repo_id']}"
    return make_commit_info(
        url=f"{url}/commit/{commit}",
        message=message,
        commit=commit,
        endpoint=api.endpoint,
        pull_request_url=f"{url}/discussions/{request.removeprefix('refs/pr/')}" if request else None,
    )
