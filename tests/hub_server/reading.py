"""Repository info, trees, refs, commits and files."""

import re
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from .account import card_data
from .repositories import Refusal, find, git_blob


def auth_check(hub, request):
    find(hub, request)
    return JSONResponse({})


def auth_check_write(hub, request):
    find(hub, request, write=True)
    return JSONResponse({})


def repo_info(hub, request):
    repo = find(hub, request)
    commit = repo.at(request.path_params.get("revision", "main"))
    readme = commit.files.get("README.md")
    card = (card_data(hub.objects[readme.etag].decode()) if readme else None) or {}
    return JSONResponse(
        {
            "_id": "0" * 24,
            "id": repo.id,
            "author": repo.namespace,
            "sha": commit.sha,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "createdAt": repo.created,
            "lastModified": commit.date,
            "tags": card.get("tags") or [],
            "cardData": card,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
        | {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    )


def refs(hub, request):
    repo = find(hub, request)
    pull_requests = repo.pull_requests()
    branches = {name: sha for name, sha in repo.branches.items() if name not in pull_requests}
    rows = {
        "branches": [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches.items()],
        "tags": [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in repo.tags.items()],
        "converts": [],
    }
    if request.query_params.get("include_prs"):
        rows["pullRequests"] = [{"name": n.split("/")[-1], "ref": n, "targetCommit": sha} for n, sha in pull_requests.items()]
    return JSONResponse(rows)


def commits(hub, request):
    history = find(hub, request).history(request.path_params["revision"])
    return JSONResponse([{"id": c.sha, "title": c.title, "message": "", "date": c.date, "authors": []} for c in history])


def tree(hub, request):
    commit = find(hub, request).at(request.path_params["revision"])
    base = request.path_params.get("path", "").strip("/")
    recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
    start = base + "/" if base else ""
    folders, rows = set(), []
    for path, blob in sorted(commit.files.items()):
        if path.startswith(start):
            parts = path[len(start) :].split("/")
            depth = len(parts) if recursive else min(2, len(parts))
            folders |= {start + "/".join(parts[:n]) for n in range(1, depth)}
            if recursive or len(parts) == 1:
                rows.append(with_commit(commit, blob.entry(path)))
    if base and not rows and not folders:
        raise Refusal(404, f"{base} does not exist", "EntryNotFound")
    return JSONResponse([folder(commit, path) for path in sorted(folders)] + rows)


def folder(commit, path):
    return with_commit(commit, {"type": "directory", "path": path, "oid": git_blob(path.encode()), "size": 0})


def with_commit(commit, row):
    return row | {"lastCommit": {"id": commit.sha, "title": commit.title, "date": commit.date}}


def paths_info(hub, request):
    commit = find(hub, request).at(request.path_params["revision"])
    if "json" in request.headers.get("content-type", ""):
        paths = request.state.json["paths"]
    else:
        paths = parse_qs(request.state.body.decode()).get("paths", [])
    rows = []
    for path in paths:
        if path in commit.files:
            rows.append(with_commit(commit, commit.files[path].entry(path)))
        elif any(name.startswith(path.rstrip("/") + "/") for name in commit.files):
            rows.append(folder(commit, path))
    return JSONResponse(rows)


def resolve(hub, request):
    repo, account = find(hub, request), request.state.account
    if repo.gated and not (account and account.writes_to(repo.namespace)):
        raise Refusal(403 if account else 401, f"Access to model {repo.id} is restricted.", "GatedRepo")
    commit = repo.at(request.path_params["revision"])
    blob = commit.files.get(request.path_params["path"])
    if blob is None:
        return Refusal(404, "Entry not found", "EntryNotFound").response(**{"X-Repo-Commit": commit.sha})
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.sha256:  # the real Hub redirects to another host; the client reads the file's metadata from here all the same
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if hub.xet:
            headers |= hub.xet.file_headers(f"{hub.url}/api/{repo.kind}/{repo.id}/xet-read-token/{commit.sha}", blob.sha256)
    return ranged(request, hub.objects[blob.etag], headers)


def ranged(request, data, headers):
    """The bytes that a Range header asks for, or all of them."""
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not span:
        return Response(data, 200, headers, "application/octet-stream")
    start, end = int(span[1]), min(int(span[2] or len(data) - 1), len(data) - 1)
    if start >= len(data):
        return Response(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
    headers = headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    return Response(data[start : end + 1], 206, headers, "application/octet-stream")
