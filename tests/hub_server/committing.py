"""Commits, which are checked against their parent and land whole, and branches and tags."""

import base64
import json

from starlette.responses import JSONResponse

from .repositories import Blob, Refusal, find
from .uploading import accept


def commit(hub, request):
    create_pr = bool(request.query_params.get("create_pr"))
    repo, branch = find(hub, request, write=not create_pr), request.path_params["revision"]
    header, *operations = [json.loads(line) for line in request.state.body.splitlines() if line.strip()]
    head, parent = repo.at(branch), header["value"].get("parentCommit")
    if create_pr:
        head = repo.at(parent or branch)
    elif parent not in (None, head.sha):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation in operations:
        apply(hub, files, operation["key"], operation["value"])
    prefix = "" if repo.kind == "models" else f"{repo.kind}/"
    answer = {"success": True, "hookOutput": ""}
    if create_pr:
        number = len(repo.pull_requests()) + 1
        branch = f"refs/pr/{number}"
        answer["pullRequestUrl"] = f"{hub.url}/{prefix}{repo.id}/discussions/{number}"
    made = repo.add_commit(branch, header["value"]["summary"], files, parent=head.sha)
    return JSONResponse(answer | {"commitUrl": f"{hub.url}/{prefix}{repo.id}/commit/{made.sha}", "commitOid": made.sha})


def apply(hub, files, key, value):
    """Carry out one operation of a commit on the files of its parent."""
    path = value["path"]
    if key == "file":
        files[path] = hub.store(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        oid = value["oid"]
        if oid not in hub.objects and hub.xet and (data := hub.xet.read(oid, value["size"])) is not None:
            accept(hub, oid, data)
        if oid not in hub.objects:
            raise Refusal(400, f"Your push was rejected: the LFS object {oid} of {path} is missing")
        files[path] = Blob.lfs(oid, len(hub.objects[oid]))
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[name]
    else:
        raise Refusal(400, f"Unknown operation {key}")


def create_branch(hub, request):
    repo = find(hub, request, write=True)
    start = (json.loads(request.state.body or b"{}") or {}).get("startingPoint", "main")
    return create_ref(repo, repo.branches, request.path_params["revision"], start)


def create_tag(hub, request):
    repo = find(hub, request, write=True)
    return create_ref(repo, repo.tags, request.state.json["tag"], request.path_params["revision"])


def create_ref(repo, table, name, start):
    if name in table:
        raise Refusal(409, f"Reference already exists: {name}")
    table[name] = repo.at(start).sha
    return JSONResponse({})
