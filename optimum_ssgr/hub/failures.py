"""What can go wrong with the Hub, in one sentence each, and what goes away by itself."""

import re
from json import JSONDecodeError

from httpx2 import HTTPError, TransportError, UnsupportedProtocol
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from ..errors import HubError


# What the Hub's clients raise. `HfHubHTTPError` is an `HTTPError`; hf_xet raises `ConnectionError`, whatever went wrong.
RAISED = (HTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, HFValidationError, ConnectionError)
# The Hub counts calls in windows of 5 minutes. Seconds to wait where it does not tell how long the window lasts, and at most.
RATE_LIMIT_WAIT, LONGEST_RATE_LIMIT_WAIT = 60.0, 600.0


def hub_error(error: BaseException, repo_id: str) -> HubError | None:
    """Translate what huggingface_hub, hf_xet, datasets or transformers raised into one sentence.

    The original holds its request, and with it the token. Raise the translation outside of the `except` block, so that the
    original does not go along as its context.

    Args:
        error: The exception; what it was raised from counts, too.
        repo_id: The repository that was asked for.

    Returns:
        The error to raise instead; None where the exception is not the Hub's.
    """
    origin = _origin(error)
    return None if origin is None else HubError(_sentence(origin, repo_id))


def is_passing(error: BaseException) -> bool:
    """Tell whether the same call may succeed later: after a conflict, a broken connection or trouble on the Hub's side."""
    origin = _origin(error)
    if origin is None or isinstance(origin, (OfflineModeIsEnabled, UnsupportedProtocol)):
        return False
    status = _status(origin)
    if status is None:
        return isinstance(origin, (TransportError, ConnectionError, JSONDecodeError))
    return not _is_full(origin) and (status in (408, 409, 412, 425, 429) or status >= 500)


def rate_limit_wait(error: BaseException) -> float | None:
    """Return the seconds until the Hub takes calls again, where it got too many of them; None after trouble of another kind."""
    origin = _origin(error)
    if _status(origin) != 429:
        return None
    headers = origin.response.headers if isinstance(origin, HfHubHTTPError) else {}
    limit, retry_after = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    if limit and limit.remaining == 0:
        told = limit.reset_in_seconds
    else:
        told = int(retry_after) if retry_after.isdecimal() else RATE_LIMIT_WAIT
    return min(told, LONGEST_RATE_LIMIT_WAIT)


def _origin(error: BaseException | None) -> BaseException | None:
    """The outermost exception of the Hub's clients in a chain of exceptions."""
    if isinstance(error, JSONDecodeError):  # an answer that is not the Hub's, say a proxy's; further in, it may be a local file
        return error
    while error is not None and not isinstance(error, RAISED) and not _is_lfs_refusal(error):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error


def _is_lfs_refusal(error: BaseException) -> bool:
    """Whether the Hub took the request to upload, but refused some of the files."""
    return isinstance(error, ValueError) and str(error).startswith("LFS batch API returned errors")


def _status(origin: BaseException | None) -> int | None:
    """The HTTP status of an answer; hf_xet gives it in words only, as "(403 Forbidden)"."""
    if isinstance(origin, HfHubHTTPError):
        return origin.response.status_code
    found = re.search(r"\((\d{3}) [A-Z]", str(origin)) if isinstance(origin, ConnectionError) else None
    return int(found[1]) if found else None


def _said(origin: BaseException) -> str:
    """The Hub's own words, on one line and without the token, should a server repeat it."""
    words = origin.server_message if isinstance(origin, HfHubHTTPError) else str(origin) if _is_lfs_refusal(origin) else None
    if not words:
        return ""
    if isinstance(origin, HfHubHTTPError) and (sent := origin.response.request.headers.get("authorization")):
        words = words.replace(sent.removeprefix("Bearer "), "(token)")
    words = " ".join(words.split())
    return f" (the Hub says: {words if len(words) <= 300 else words[:300] + '...'})"


def _is_full(origin: BaseException) -> bool:
    """Whether an account's storage is used up, which the Hub tells by several statuses and, where it refuses, in words.

    Elsewhere these words mean other things: of a rate limit it says "you hit the quota", of trouble "our storage is down".
    """
    status = _status(origin)
    says_so = status in (None, 400, 403) and re.search(r"\b(storage|quota)\b", _said(origin), re.I)
    return status in (402, 413, 507) or bool(says_so)


def _sentence(origin: BaseException, repo_id: str) -> str:
    status, said = _status(origin), _said(origin)
    if isinstance(origin, OfflineModeIsEnabled):
        return f"cannot reach {repo_id} because HF_HUB_OFFLINE is set; unset it, or work with local paths."
    if isinstance(origin, LocalTokenNotFoundError):
        return f"there is no Hugging Face token for {repo_id}; log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(origin, HFValidationError):
        return f"'{repo_id}' is not the name of a repository on the Hub; it must be NAMESPACE/NAME."
    if isinstance(origin, GatedRepoError):
        return f"{repo_id} is gated; ask for access on its page on the Hub, and use a token of the account that was given it."
    if isinstance(origin, DisabledRepoError):
        return f"{repo_id} has been disabled on the Hub; see its page there for the reason."
    if isinstance(origin, RevisionNotFoundError):
        return f"{repo_id} does not have this revision; look up its branches, tags and commits on the Hub."
    if isinstance(origin, RemoteEntryNotFoundError):
        return f"{repo_id} does not hold a file that is needed{said}; check that it is what was meant."
    if isinstance(origin, RepositoryNotFoundError) or status == 404:
        return f"{repo_id} is not on the Hub, or the token may not see it; check the name and the account (`hf auth whoami`)."
    if _is_full(origin):
        return (
            f"the storage for {repo_id} is used up{said}; make room or choose another account, and run the same command again."
        )
    if status == 401:
        return f"the Hub does not know the token for {repo_id}; log in again with `hf auth login --force`, or renew HF_TOKEN."
    if status == 403:
        return f"the token may not do this with {repo_id}{said}; use one that may, from https://huggingface.co/settings/tokens."
    if status in (409, 412):
        return f"others kept writing to {repo_id} at the same time; run the same command again when they have finished."
    if status == 429:
        return f"the Hub takes no more calls for {repo_id} for now{said}; wait, and run the same command again."
    if status is not None and (status == 408 or status >= 500):
        return f"the Hub has trouble with {repo_id} (HTTP status {status}); run the same command again later."
    if status is not None or _is_lfs_refusal(origin):
        return f"the Hub refuses what was asked of {repo_id}{said or f' (HTTP status {status})'}; mend that and try again."
    reason = type(origin).__name__
    return f"lost the connection to the Hub for {repo_id} ({reason}); check the network and run the same command again."
