"""Who the token belongs to; creating and deleting repositories; card metadata."""

import json
import re

import yaml
from starlette.responses import JSONResponse

from .repositories import LFS_SUFFIXES, Refusal, Repository


FRONT_MATTER = re.compile(r"^---\r?\n(.*?)\r?\n---(\r?\n|$)", re.S)
# What the Hub writes into a new Space.
NEW_SPACE = """---
title: {name}
emoji: 🐢
colorFrom: gray
colorTo: blue
sdk: {sdk}
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


def signed_in(request):
    if request.state.account is None:
        raise Refusal(401, "Invalid username or password.")
    return request.state.account


def whoami(hub, request):
    account = signed_in(request)
    token = {"displayName": "test", "role": account.role}
    if account.scopes is not None:
        token["fineGrained"] = {"scoped": account.scopes}
    organisations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organisations]
    return JSONResponse(
        {
            "type": "user",
            "id": "0" * 24,
            "name": account.name,
            "orgs": organisations,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def create_repo(hub, request):
    account, body = signed_in(request), request.state.json
    namespace, kind = body.get("organization") or account.name, body.get("type", "model") + "s"
    repo_id = f"{namespace}/{body['name']}"
    if not account.writes_to(namespace):
        raise Refusal(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{namespace}"')
    url = f"{hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
    if (kind, repo_id) in hub.repos:
        error = f"You already created this {kind[:-1]} repo"
        return JSONResponse({"error": error, "url": url, "name": repo_id}, 409, {"X-Error-Message": error})
    repo = Repository(kind, repo_id, private=body.get("visibility") == "private")
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    files = {".gitattributes": hub.store(attributes.encode())}
    if kind == "spaces":
        files["README.md"] = hub.store(NEW_SPACE.format(name=body["name"], sdk=body["sdk"]).encode())
    repo.add_commit("main", "initial commit", files)
    hub.repos[kind, repo_id] = repo
    return JSONResponse({"url": url, "name": repo_id, "id": "0" * 24})


def delete_repo(hub, request):
    account, body = signed_in(request), request.state.json
    namespace = body.get("organization") or account.name
    if not account.writes_to(namespace):
        raise Refusal(403, f"You don't have the rights to delete {namespace}/{body['name']}")
    if hub.repos.pop((body.get("type", "model") + "s", f"{namespace}/{body['name']}"), None) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return JSONResponse({})


def card_data(text):
    """The metadata of a card; None where it has none."""
    found = FRONT_MATTER.match(text)
    return yaml.safe_load(found[1]) if found else None


def validate_yaml(hub, request):
    try:
        data = card_data(json.loads(request.state.body)["content"])
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    errors, warnings = [], []
    if data is None:
        warnings.append({"message": "empty or missing yaml metadata in repo card"})
    elif not isinstance(data, dict):
        errors.append({"message": "metadata must be a mapping"})
    elif not isinstance(data.get("license", ""), (str, list)):
        errors.append({"message": '"license" must be a string'})
    return JSONResponse({"errors": errors, "warnings": warnings}, 400 if errors else 200)
