"""A file at the other end of a connection, of which only some ranges of bytes are read."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import urljoin, urlsplit

from ...registry import quote
from ..errors import SourceError
from .http import ask
from .tensor_file import ByteSource

__all__ = ["Link", "RemoteFile", "joined", "read_whole"]

HEAD = 1 << 16  # bytes that the first request asks for: most headers are shorter
PIECE = 1 << 26  # bytes that one request asks for at most
MAX_GAP = 1 << 20  # bytes between two ranges: to read more takes longer than a second request
MAX_REDIRECTS = 5
# What a store answers to an address that it signed too long ago.
_EXPIRED = (400, 401, 403, 404, 410)
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_ADDRESS = re.compile(r"https?://[\w.\[\]:-]+(?:[/?][!-~]*)?", re.ASCII)
_NOT_COMPRESSED = ""  # what no value means: RFC 9110, 12.5.3
_DAMAGED = "Try again; if it stays so, tell those who run the server."

Span = tuple[int, int]


@dataclass(frozen=True)
class Link:
    """Where a file's bytes are.

    Attributes:
        url: Their address, which may be signed: no message shows it.
        headers: What a request says, such as the token.
        etag: What the hub calls this content.
        size: How many bytes there are.
        away: Whether the address is another server's than the hub's.
    """

    url: str
    headers: Mapping[str, str]
    etag: str
    size: int
    away: bool = False

    def to(self, location: str, where: str) -> Link:
        """Follow a redirect. The token goes to no other server.

        Raises:
            SourceError: It leads to what is not HTTP, or from HTTPS to HTTP.
        """
        before = urlsplit(self.url)
        try:
            url = urljoin(self.url, location)
            after = urlsplit(url)
            # As the client does, whose errors for a host or a port that is none are of all kinds.
            host, _port = (after.hostname or "").encode("idna"), after.port
        except ValueError:
            url, after, host = "", urlsplit(""), b""
        plain = host and _ADDRESS.fullmatch(url)
        if not plain or (before.scheme == "https" and after.scheme != "https"):
            found = f"a redirect from {before.scheme} to {after.scheme or 'no address'}"
            raise SourceError(found, where, "an address of https", _DAMAGED)
        if (before.scheme, before.netloc) == (after.scheme, after.netloc):
            return replace(self, url=url)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "authorization"}
        return replace(self, url=url, headers=headers, away=True)


class RemoteFile(ByteSource):
    """A file behind a link.

    Args:
        where: What messages call it.
        resolve: Asks the hub for the link; again, where a signed address has expired.
        whole: How to fetch the whole file.

    Raises:
        SourceError: The hub does not answer, or not as HTTP and its routes say.
    """

    def __init__(self, where: str, resolve: Callable[[], Link], whole: str) -> None:
        self.where = where
        self._resolve = resolve
        self._whole = whole
        self._link = resolve()
        self._etag: str | None = None  # of the server that sends the bytes
        self._pieces: list[tuple[int, bytearray]] = []
        self.size = self._link.size
        # It reads what it is asked for, and no more: what has come before is kept here.
        self.file = io.BufferedReader(_Stream(self), buffer_size=1)

    def span(self, first: int, end: int) -> tuple[int, bytearray]:
        """Return bytes that contain these ones, and the position of the first of them."""
        for start, data in self._pieces:
            if start <= first and end <= start + len(data):
                return start, data
        return self._fetch(first, end)

    def check(self) -> None:
        """Do nothing: each answer was compared with the first one when it came."""

    def prepare(
        self, spans: Iterable[Span], extra: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Fetch what `span` will be asked for, in few requests.

        Args:
            spans: The first byte and the end of each.
            extra: How many bytes between them may be read too.
            progress: Called with how many of their bytes are here.
        """
        there = [(start, start + len(data)) for start, data in self._pieces]
        wanted = sorted({(first, end) for first, end in spans if first < end})
        missing = [s for s in wanted if not any(a <= s[0] and s[1] <= b for a, b in there)]
        done = _total(wanted) - _total(missing)

        def arrived(position: int) -> None:
            if progress is not None:  # the spans are sorted, and so are the requests
                progress(done + sum(max(0, min(end, position) - first) for first, end in missing))

        for first, end in joined(missing, extra):
            arrived(first)
            self._fetch(first, end, arrived)

    def head(self, first: int, n: int) -> bytes:
        """Return at most n bytes, of what is here or of one request."""
        for start, data in self._pieces:
            if start <= first < start + len(data):
                return bytes(data[first - start : first - start + n])
        self._fetch(first, min(self.size, max(first + n, HEAD)))
        return self.head(first, n)

    def _fetch(
        self, first: int, end: int, arrived: Callable[[int], None] = lambda _: None
    ) -> tuple[int, bytearray]:
        """Fetch a range, and go on where a connection was cut."""
        data = bytearray()
        while len(data) < end - first:
            last = min(end, first + len(data) - len(data) % PIECE + PIECE)
            ask(partial(self._renewed, first, last, data, arrived), self.where, cut=True)
        self._pieces.append((first, data))
        return first, data

    def _renewed(
        self, first: int, end: int, data: bytearray, arrived: Callable[[int], None]
    ) -> None:
        """Go on reading a range, with a new address if the one that is known has expired."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self._read_on(first, end, data, arrived)
        except HfHubHTTPError as error:
            if not self._link.away or error.response.status_code not in _EXPIRED:
                raise
            link = self._resolve()
            if (link.etag, link.size) != (self._link.etag, self._link.size):
                raise self._changed() from None
            self._link = link
            self._read_on(first, end, data, arrived)

    def _read_on(
        self, first: int, end: int, data: bytearray, arrived: Callable[[int], None]
    ) -> None:
        """Ask for what is missing of a range, and append what comes."""
        start = first + len(data)
        with _answer(self._link, self.where, {"Range": f"bytes={start}-{end - 1}"}) as response:
            self._check(response, start, end)
            # As it comes, so that what came before a cut is here.
            for chunk in response.iter_raw():
                data += chunk
                if first + len(data) > end:
                    raise self._lie(f"more bytes than {end - start:,}")
                arrived(first + len(data))
        if first + len(data) < end:
            raise self._lie(f"{first + len(data) - start:,} bytes of {end - start:,}")

    def _check(self, response: Any, start: int, end: int) -> None:
        """Refuse an answer that is not the range that was asked for, of the same file."""
        headers = response.headers
        if response.status_code != 206:
            found = f"the server sends no ranges, but all of its {self.size:,} bytes"
            hint = f"Fetch it whole; it is then read from the hub's cache: {self._whole}"
            raise SourceError(found, self.where, "HTTP 206, a part", hint)
        etag = headers.get("ETag")
        if self._etag is None:
            self._etag = etag
        if etag != self._etag:
            raise self._changed()
        said = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if said is None or tuple(map(int, said.groups())) != (start, end - 1, self.size):
            found = quote(headers.get("Content-Range", "no range"), 80)
            raise self._lie(f"{found}, asked for {start}-{end - 1} of {self.size}")
        if headers.get("Content-Length", str(end - start)) != str(end - start):
            raise self._lie(f"{quote(headers['Content-Length'], 40)} bytes of {end - start:,}")
        if "Content-Encoding" in headers:
            raise self._lie("compressed bytes, which were not asked for")

    def _lie(self, found: str) -> SourceError:
        return SourceError(f"the server contradicts itself: {found}", self.where, hint=_DAMAGED)

    def _changed(self) -> SourceError:
        return SourceError("the file changed while it was read", self.where, hint="Try again.")


class _Stream(io.RawIOBase):
    """A remote file's bytes one after the other, as a file of the system gives them."""

    def __init__(self, source: RemoteFile) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        from_ = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = from_[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        n = min(len(buffer), self._source.size - self._position)
        if n <= 0:
            return 0
        data = self._source.head(self._position, n)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def joined(spans: Sequence[Span], extra: int) -> list[Span]:
    """Join ranges that lie close, those with the smallest gaps first.

    >>> joined([(0, 10), (12, 20), (30, 40)], extra=5)
    [(0, 20), (30, 40)]

    Args:
        spans: The first byte and the end of each, sorted and apart.
        extra: How many bytes between them may be read too.
    """
    gaps = sorted((b[0] - a[1], b[0]) for a, b in pairwise(spans))
    closed = set()
    for gap, start in gaps:
        if gap > min(extra, MAX_GAP):
            break
        extra -= gap
        closed.add(start)
    found: list[Span] = []
    for first, end in spans:
        if first in closed:
            first, _ = found.pop()
        found.append((first, end))
    return found


def read_whole(link: Link, where: str, limit: int) -> bytes:
    """Read a small file.

    Raises:
        SourceError: It is longer than the limit or than was said, or cannot be read.
    """
    if link.size > limit:
        raise SourceError(f"{link.size:,} bytes", where, f"at most {limit:,}")

    def read() -> bytes:
        data = bytearray()
        with _answer(link, where, {}) as response:
            for chunk in response.iter_raw():
                data += chunk
                if len(data) > link.size:
                    break
        return bytes(data)

    data = ask(read, where, cut=True)
    if len(data) != link.size:
        found = f"the server contradicts itself: other bytes than the {link.size:,} it promised"
        raise SourceError(found, where, hint=_DAMAGED)
    return data


@contextmanager
def _answer(link: Link, where: str, headers: Mapping[str, str]) -> Iterator[Any]:
    """Ask for a link's bytes, and go where the answer leads."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    for _ in range(MAX_REDIRECTS):
        with get_session().stream(
            "GET",
            link.url,
            headers={**link.headers, "Accept-Encoding": _NOT_COMPRESSED, **headers},
            follow_redirects=False,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as response:
            if not response.has_redirect_location:
                hf_raise_for_status(response)
                yield response
                return
            link = link.to(response.headers["Location"], where)
    raise SourceError(f"more than {MAX_REDIRECTS} redirects", where, hint=_DAMAGED)


def _total(spans: Iterable[Span]) -> int:
    return sum(end - first for first, end in spans)
