"""Blobs, commits, branches and pull requests, and who may read and write them."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timezone

from starlette.responses import JSONResponse


LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".npy", ".zip", ".gz")


class Refusal(Exception):
    """A refusal as the clients read it: status, X-Error-Code, X-Error-Message and a JSON body."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def response(self, **headers):
        headers |= {"X-Error-Message": self.message} | ({"X-Error-Code": self.code} if self.code else {})
        return JSONResponse({"error": self.message}, self.status, headers)


@dataclass(frozen=True)
class Account:
    """Whose token it is, and what it may do."""

    name: str
    role: str = "write"
    organisations: tuple[str, ...] = ()
    scopes: list[dict] | None = None  # of a fine-grained token

    def writes_to(self, namespace):
        return self.role == "write" and namespace in (self.name, *self.organisations)


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Blob:
    """A file's content by its hashes: `oid` is git's, of the content or of the LFS pointer to it."""

    oid: str
    size: int
    sha256: str | None = None  # of LFS files

    @classmethod
    def lfs(cls, sha256, size):
        return cls(git_blob(pointer(sha256, size)), size, sha256)

    @property
    def etag(self):
        return self.sha256 or self.oid

    def entry(self, path):
        row = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.sha256:
            row["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer(self.sha256, self.size))}
        return row


def pointer(sha256, size):
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repository:
    kind: str  # models, datasets or spaces
    id: str
    private: bool = False
    gated: bool = False
    created: str = field(default_factory=now)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)  # pull requests are branches named refs/pr/N
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def namespace(self):
        return self.id.split("/")[0]

    def add_commit(self, branch, title, files, parent=None):
        parent = parent or self.branches.get(branch)
        content = json.dumps([parent, title, len(self.commits), sorted((path, blob.oid) for path, blob in files.items())])
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), parent, title, now(), files)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def at(self, revision="main"):
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision="main"):
        """Commits, newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def pull_requests(self):
        return {name: sha for name, sha in self.branches.items() if name.startswith("refs/pr/")}


def find(hub, request, write=False):
    """The repository of a request, if its account may read (or write) it."""
    path, account = request.path_params, request.state.account
    kind, repo_id = path.get("kind", "models"), f"{path['namespace']}/{path['name']}"
    repo = hub.repos.get((kind, repo_id))
    member = account and path["namespace"] in (account.name, *account.organisations)
    if repo is None or (repo.private and not member):
        raise Refusal(404 if account else 401, "Repository not found", "RepoNotFound")
    if write and account is None:
        raise Refusal(401, "Invalid username or password.", "RepoNotFound")
    if write and not account.writes_to(repo.namespace):
        raise Refusal(403, f"You don't have write access to {repo.id}")
    return repo
