"""Which path leads to which handler, and what that call is named."""

import json
from urllib.parse import unquote

from starlette.requests import Request
from starlette.routing import Route

from . import account, committing, reading, uploading, xet
from .faults import FaultyEndpoint
from .repositories import Refusal


API = "/api/{kind}/{namespace}/{name}"
TABLE = [  # method, path, handler; a call is named as its handler
    ("GET", "/api/whoami-v2", account.whoami),
    ("POST", "/api/validate-yaml", account.validate_yaml),
    ("POST", "/api/repos/create", account.create_repo),
    ("DELETE", "/api/repos/delete", account.delete_repo),
    ("GET", API, reading.repo_info),
    ("GET", API + "/revision/{revision}", reading.repo_info),
    ("GET", API + "/auth-check", reading.auth_check),
    ("GET", API + "/auth-check/write", reading.auth_check_write),
    ("GET", API + "/refs", reading.refs),
    ("GET", API + "/commits/{revision}", reading.commits),
    ("GET", API + "/tree/{revision}", reading.tree),
    ("GET", API + "/tree/{revision}/{path:path}", reading.tree),
    ("POST", API + "/paths-info/{revision}", reading.paths_info),
    ("GET", API + "/xet-{access}-token/{revision}", xet.xet_token),
    ("POST", API + "/preupload/{revision}", uploading.preupload),
    ("POST", API + "/commit/{revision}", committing.commit),
    ("POST", API + "/branch/{revision}", committing.create_branch),
    ("POST", API + "/tag/{revision}", committing.create_tag),
    ("PUT", "/lfs/{oid}", uploading.lfs_put),
    ("PUT", "/lfs/{oid}/{part:int}", uploading.lfs_put),
    ("POST", "/lfs/{oid}/complete", uploading.lfs_complete),
    ("POST", "/lfs/{oid}/verify", uploading.lfs_verify),
    ("POST", "/{namespace}/{name}.git/info/lfs/objects/batch", uploading.lfs_batch),
    ("POST", "/{kind}/{namespace}/{name}.git/info/lfs/objects/batch", uploading.lfs_batch),
    ("GET", "/{namespace}/{name}/resolve/{revision}/{path:path}", reading.resolve),
    ("GET", "/{kind}/{namespace}/{name}/resolve/{revision}/{path:path}", reading.resolve),
]
CALLS = {handler.__name__ for _, _, handler in TABLE}


def routes(hub):
    return [
        Route(path, FaultyEndpoint(hub, handler.__name__, answered(hub, handler)), methods=[method])
        for method, path, handler in TABLE
    ]


def answered(hub, handler):
    """The ASGI application that reads a whole request, finds whose it is, and sends what the handler answers."""

    async def application(scope, receive, send):
        request = Request(scope, receive)
        if "revision" in request.path_params:
            request.path_params["revision"] = unquote(request.path_params["revision"])
        body = request.state.body = await request.body()
        if "json" in request.headers.get("content-type", "") and "ndjson" not in request.headers["content-type"]:
            request.state.json = json.loads(body or b"{}")
        try:
            request.state.account = account_of(hub, request)
            response = handler(hub, request)  # on the event loop, one at a time: a handler sees and leaves a whole state
        except Refusal as refusal:
            response = refusal.response()
        await response(scope, receive, send)

    return application


def account_of(hub, request):
    header = request.headers.get("authorization")
    if header is None:
        return None
    account = hub.accounts.get(header.removeprefix("Bearer "))
    if account is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return account
