"""What goes where, and Git LFS uploads in one part or many."""

import hashlib

from starlette.responses import JSONResponse, Response

from .repositories import LFS_SUFFIXES, Refusal, find


def preupload(hub, request):
    """Tell for each file whether it goes into the commit or to LFS, and the hash of what is there already."""
    repo = find(hub, request, write=not request.query_params.get("create_pr"))
    files = repo.at(request.path_params["revision"]).files
    rows = []
    for file in request.state.json["files"]:
        path = file["path"]
        large = file["size"] >= hub.lfs_threshold or path.endswith(LFS_SUFFIXES)
        row = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        rows.append(row | ({"oid": files[path].etag} if path in files else {}))
    return JSONResponse({"files": rows})


def lfs_batch(hub, request):
    find(hub, request, write="ref" in request.state.json)  # without a ref it is for a pull request
    rows, transfer = [], "basic"
    for wanted in request.state.json["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        row, url = {"oid": oid, "size": size}, f"{hub.url}/lfs/{oid}"
        if oid not in hub.objects:
            upload = {"href": url}
            if hub.part_size and size > hub.part_size:
                transfer = "multipart"
                parts = {str(n): f"{url}/{n}" for n in range(1, -(-size // hub.part_size) + 1)}
                upload = {"href": f"{url}/complete", "header": parts | {"chunk_size": str(hub.part_size)}}
            row["actions"] = {"upload": upload, "verify": {"href": f"{url}/verify"}}
        rows.append(row)
    return JSONResponse({"transfer": transfer, "objects": rows}, media_type="application/vnd.git-lfs+json")


def lfs_put(hub, request):
    if request.state.account:
        raise Refusal(400, "Only one auth mechanism allowed")  # as the storage behind the Hub says of a signed URL with a token
    oid, part, data = request.path_params["oid"], request.path_params.get("part"), request.state.body
    if part is None:
        accept(hub, oid, data)
    else:
        hub.parts.setdefault(oid, {})[part] = data
    return Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})


def lfs_complete(hub, request):
    oid = request.state.json["oid"]
    if oid not in hub.objects:
        parts = hub.parts.pop(oid, {})
        accept(hub, oid, b"".join(parts[part["partNumber"]] for part in request.state.json["parts"]))
    return JSONResponse({})


def accept(hub, oid, data):
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refusal(400, "The content does not match its SHA-256")
    hub.objects[oid] = data
    hub.uploads[oid] += 1


def lfs_verify(hub, request):
    if len(hub.objects.get(request.state.json["oid"], b"")) != request.state.json["size"]:
        raise Refusal(404, "The object was not uploaded")
    return JSONResponse({})
