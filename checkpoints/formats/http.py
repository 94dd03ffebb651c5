"""Requests to a hub: which are made again, and what goes wrong with them, in our words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from ...registry import first_line
from ...registry.requirements import install_command
from ..errors import CheckpointError, SourceError

__all__ = ["EXTRA", "PASSES", "HubMissing", "ask", "explained", "require_hub"]

EXTRA = "hub"
TRIES = 6  # of one request
MAX_WAIT = 60.0  # seconds between two of them
PASSES = (408, 429, 500, 502, 503, 504)  # what a later try may not meet

T = TypeVar("T")


class HubMissing(CheckpointError, ImportError):
    """huggingface_hub is not installed, or it is a version without what is needed."""


def require_hub(where: str) -> None:
    """Import the hub's client.

    Args:
        where: What needs it.

    Raises:
        HubMissing: It cannot be imported.
    """
    try:
        from huggingface_hub import parse_hf_uri  # noqa: F401 - the newest name of those in use
    except ImportError as error:
        found = f"huggingface_hub cannot be used: {first_line(error)}"
        hint = f"Run: {install_command(EXTRA)}"
        raise HubMissing(found, where, hint=hint) from error


def ask(call: Callable[[], T], where: str, *, cut: bool = False) -> T:
    """Make a request, and again after what passes by itself.

    Args:
        call: Makes the request.
        where: What messages call what is asked for.
        cut: Whether a connection that is cut is made again.

    Raises:
        SourceError: The hub refuses, asks to wait for long, or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # That of httpx or, from huggingface_hub 2 on, of httpx2; connections that fail raise it too.
    http_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    tried = 0
    while True:
        try:
            return call()
        except OfflineModeIsEnabled:
            hint = "Unset HF_HUB_OFFLINE."
            raise SourceError("the hub is switched off", where, hint=hint) from None
        except http_error as error:
            tried += 1
            wait = _wait(error, tried, cut=cut)
            if tried == TRIES or wait > MAX_WAIT:
                # Without its cause, in which there may be a signed address.
                raise explained(error, where) from None
        time.sleep(wait)


def _wait(error: Exception, tried: int, *, cut: bool) -> float:
    """Return for how many seconds to wait before the next try; infinite if there is to be none."""
    again = min(0.25 * 2**tried, 8.0)
    response = getattr(error, "response", None)
    if response is None:
        return again if cut else float("inf")
    if response.status_code not in PASSES:
        return float("inf")
    asked = _asked_wait(response)
    return again if asked is None else asked


def _asked_wait(response: Any) -> float | None:
    """Return for how many seconds the answer asks to wait; None if it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    headers = response.headers
    text = headers.get("Retry-After", "")
    if text.isdecimal() and text.isascii():
        return float(text[:18])
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and not limit.remaining else None


def explained(error: Exception, where: str) -> SourceError:
    """Return our error for one of the hub's, or of the connection to it."""
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    response = getattr(error, "response", None)
    if response is None:
        found = f"the connection failed: {first_line(error) or type(error).__name__}"
        hint = "Look at the network and at HF_ENDPOINT; HF_HUB_OFFLINE=1 reads what is kept."
        return SourceError(found, where, hint=hint)
    status = response.status_code
    if isinstance(error, GatedRepoError):
        page = replace(parse_hf_uri(where), revision=None, path_in_repo="").to_url()
        found = "a gated model, to which you have no access"
        hint = f"Ask for access at {page}, then log in: hf auth login"
    elif isinstance(error, RepositoryNotFoundError):
        found = "no such model on the hub, or a private one"
        hint = "Look at its name; for a private one, log in: hf auth login"
    elif isinstance(error, RevisionNotFoundError):
        found = "the model has no such revision"
        hint = "Name a branch, a tag or a whole commit; or leave out @REVISION, for main."
    elif isinstance(error, EntryNotFoundError):
        found, hint = "no such file", "Look at its name and at the revision."
    elif status == 401:
        found, hint = "the hub does not accept the token", "Log in again: hf auth login"
    elif status == 416:
        found, hint = "the file is not as long as the hub says", "Try again."
    elif status == 403:
        found = "access is forbidden"
        hint = "Look at what your token may do: hf auth whoami"
    elif status not in PASSES and status < 500:
        found, hint = "the hub does not know it", "Look at the name, and at HF_ENDPOINT."
    else:
        asked = _asked_wait(response)
        found = "too many requests" if status == 429 else "the hub cannot answer"
        hint = "Try again later." if asked is None else f"Try again in {asked:,.0f} seconds."
    return SourceError(f"{found} (HTTP {status})", where, hint=hint)
