"""Whether a push will be allowed, asked before the work that makes what is pushed."""

from typing import Any

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, SpaceInfo, get_token
from huggingface_hub.errors import GatedRepoError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..errors import HubError
from .client import call_hub


QUICK_TRIES = 3  # the user is still there to try again


def check_push(
    repo_id: str, *, repo_type: str = "model", private: bool | None = None, create_pr: bool = False, token: str | None = None
) -> None:
    """Check that `push_folder` with the same arguments will be allowed; nothing is created.

    Args:
        repo_id: NAMESPACE/NAME; may not exist yet.
        repo_type: "model", "dataset" or "space".
        private: Whether the repository shall be private.
        create_pr: Whether a pull request shall be opened, which takes no right to write.
        token: Defaults to HF_TOKEN or the one that `hf auth login` saved.

    Raises:
        HubError: There is no valid token, it may not write there, or the repository has another visibility.
    """
    call_hub(lambda: _check_push(repo_id, repo_type, private, create_pr, token), repo_id, tries=QUICK_TRIES)


def check_name(repo_id: str) -> None:
    """Refuse what is not NAMESPACE/NAME.

    Raises:
        HubError: The name is malformed.
    """
    call_hub(lambda: validate_repo_id(repo_id), repo_id)
    if "/" not in repo_id:
        raise HubError(f"'{repo_id}' lacks a namespace; write NAMESPACE/{repo_id} with your account's or organisation's name.")


def find_repo(
    api: HfApi, repo_id: str, repo_type: str, revision: str | None = None
) -> ModelInfo | DatasetInfo | SpaceInfo | None:
    """What the Hub tells of a repository at a revision; None where there is none that the token may see."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except GatedRepoError:  # a kind of `RepositoryNotFoundError`
        raise
    except RepositoryNotFoundError:
        return None


def check_visibility(repo_id: str, is_private: bool, private: bool | None) -> None:
    """Refuse to push what shall be private to a repository that is public, and the other way round.

    Raises:
        HubError: The visibility of an existing repository is not the one that was asked for.
    """
    if private is not None and is_private != private:
        is_now, asked = ("private", "public") if is_private else ("public", "private")
        raise HubError(
            f"{repo_id} exists and is {is_now}, but {asked} was asked for; change its settings or choose another name."
        )


def _check_push(repo_id: str, repo_type: str, private: bool | None, create_pr: bool, token: str | None) -> None:
    check_name(repo_id)
    if not (token or get_token()):
        raise LocalTokenNotFoundError()
    api = HfApi(token=token)
    found = find_repo(api, repo_id, repo_type)
    if found is None:
        _check_namespace(repo_id, api.whoami())
    else:
        check_visibility(repo_id, found.private, private)
        api.auth_check(repo_id, repo_type=repo_type, write=not create_pr)


def _check_namespace(repo_id: str, account: dict[str, Any]) -> None:
    """Check that a new repository can be made, by what the Hub tells about a token.

    Raises:
        HubError: The token may only read, or belongs to somebody who has no right to write there.
    """
    namespace = repo_id.split("/")[0]
    roles = {account["name"]: "admin"} | {org["name"]: org.get("roleInOrg") for org in account.get("orgs", [])}
    if namespace not in roles or roles[namespace] == "read":
        raise HubError(
            f"{account['name']} may not write to '{namespace}' on the Hub; choose another namespace or another account."
        )
    token = account.get("auth", {}).get("accessToken", {})
    scopes = token.get("fineGrained", {}).get("scoped", [])
    writes = any("repo.write" in scope["permissions"] and scope["entity"].get("name") == namespace for scope in scopes)
    if token.get("role") == "read" or (token.get("role") == "fineGrained" and not writes):
        raise HubError(
            f"the token may not create {repo_id}; use one with write access from https://huggingface.co/settings/tokens."
        )
