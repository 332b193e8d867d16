"""Browser SDKs, served from a directory that the operator has filled. None comes with us.

DIRECTORY/analytics-next/    `dist/umd` of the npm package `@segment/analytics-next`
DIRECTORY/rudder/            RudderStack's SDK, as it is published
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from isal import isal_zlib

from profilelake.collect.answers import Headers, Refused, cross_origin
from profilelake.collect.boot import matches
from profilelake.collect.endpoint import READING, Endpoint
from profilelake.collect.request import Request
from profilelake.collect.senders import Senders
from profilelake.ops.http import Answer, Message, Send, answer

PIECE_BYTES: Final = 256 * 1024
"""How much of a file is in memory at a time."""
STANDALONE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of the file that a write key is put into, which is read as a whole."""
FRESH_SECONDS: Final = 300
"""How long a file may be used without asking again that may change under its name."""
PARTS_MAX: Final = 6
"""Names in a path below the directory."""

_KEYED: Final = "/analytics.js/v1/"
_KEYED_END: Final = "/analytics.min.js"
_ANALYTICS_NEXT: Final = "/analytics-next/bundles/"
_RUDDER: Final = "/rudder/"
_STANDALONE: Final = "analytics-next/standalone.js"
_PLACEHOLDER: Final = b"__WRITE_KEY__"
"""What its build leaves in `standalone.js` for whoever serves it."""
_TYPES: Final = {
    ".js": b"text/javascript; charset=utf-8",
    ".mjs": b"text/javascript; charset=utf-8",
    ".map": b"application/json",
    ".txt": b"text/plain; charset=utf-8",
    ".md": b"text/plain; charset=utf-8",
}
"""What is served at all; nobody finds a file of another kind that lies there by mistake."""
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_HASHED: Final = re.compile(r"\.[0-9a-f]{16,64}\.", re.ASCII)
_NO_WEIGHT: Final = re.compile(rb"q\s*=\s*0(?:\.0*)?\s*$")
_GZIP_WINDOW: Final = 31
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
_HELP: Final = "see `Browser SDKs` in docs/tracking-api.md"


@dataclass(frozen=True, slots=True)
class _File:
    """A file on its way out, piece by piece."""

    start: Message
    file: BinaryIO

    async def send(self, send: Send, *, with_body: bool) -> None:
        with self.file:
            await send(self.start)
            while with_body and (piece := await asyncio.to_thread(self.file.read, PIECE_BYTES)):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class Bundles:
    """Answers `GET /analytics.js/v1/{writeKey}/analytics.min.js`, `/analytics-next/bundles/*` and `/rudder/*`."""

    def __init__(self, directory: Path | None, senders: Senders) -> None:
        """Serve what is in `directory`."""
        self._directory = directory
        self._senders = senders

    def endpoints(self) -> dict[str, Endpoint]:
        """Return what answers each path that begins so."""
        return {
            _KEYED: self._endpoint(self._analytics_js),
            _ANALYTICS_NEXT: self._endpoint(self._analytics_next),
            _RUDDER: self._endpoint(self._rudder),
        }

    @staticmethod
    def _endpoint(find: Callable[[Request], Awaitable[Answer | _File]]) -> Endpoint:
        async def found(request: Request) -> Answer | _File:
            try:
                return await find(request)
            except _Missing as missing:
                text = f"{missing}: {_HELP}\n".encode()
                headers = [*cross_origin(b""), (b"cache-control", b"no-store"), _NO_SNIFFING]
                return answer(404, headers, text, b"text/plain; charset=utf-8")

        return Endpoint("bundle", READING, found)

    async def _analytics_js(self, request: Request) -> Answer:
        key = request.path.removeprefix(_KEYED).removesuffix(_KEYED_END)
        if not key or not request.path.endswith(_KEYED_END):
            raise Refused(404, "not_found", "unknown_path", "there is nothing at this path")
        if self._senders.known(key) is None:
            raise _Missing("there is no such write key")
        content, tag = await asyncio.to_thread(self._read_standalone)
        # A build that was given its key has no placeholder, and one without finds it in its address.
        body = content.replace(_PLACEHOLDER, _in_script(key))
        zipped = _takes_gzip(request)
        headers = _headers(_fresh(), _tag(tag, zipped=zipped), zipped=zipped)
        if matches(request, _tag(tag, zipped=zipped)):
            return answer(304, headers, b"", _TYPES[".js"])
        if zipped:
            body = await asyncio.to_thread(_gzip, body)
        return answer(200, headers, body, _TYPES[".js"])

    async def _analytics_next(self, request: Request) -> Answer | _File:
        return await self._file("analytics-next/" + request.path.removeprefix(_ANALYTICS_NEXT), request)

    async def _rudder(self, request: Request) -> Answer | _File:
        return await self._file(request.path.removeprefix("/"), request)

    async def _file(self, name: str, request: Request) -> Answer | _File:
        path = self._path(name)
        zipped = _takes_gzip(request)
        file = await asyncio.to_thread(_open, path, zipped=zipped)
        if file is None:
            raise _Missing(f"no file {name} in the directory of http.browser_bundles")
        opened, size, tag, zipped = file
        fresh = b"public, max-age=31536000, immutable" if _HASHED.search(path.name) else _fresh()
        headers = _headers(fresh, _tag(tag, zipped=zipped), zipped=zipped)
        kind = _TYPES[path.suffix]
        if matches(request, _tag(tag, zipped=zipped)):
            opened.close()
            return answer(304, headers, b"", kind)
        headers = [(b"content-type", kind), (b"content-length", str(size).encode()), *headers]
        return _File({"type": "http.response.start", "status": 200, "headers": headers}, opened)

    def _read_standalone(self) -> tuple[bytes, str]:
        file = _open(self._path(_STANDALONE), zipped=False)
        if file is None:
            raise _Missing(f"no file {_STANDALONE} in the directory of http.browser_bundles")
        opened, size, tag, _ = file
        with opened:
            if size > STANDALONE_BYTES_MAX:
                raise _Missing(f"{_STANDALONE} has {size} bytes, {STANDALONE_BYTES_MAX} are read")
            return opened.read(STANDALONE_BYTES_MAX), tag

    def _path(self, name: str) -> Path:
        """Return where a file must be. No name leads out of the directory; a link may, if it was put there."""
        if self._directory is None:
            raise _Missing(
                "this server has no browser SDKs: set http.browser_bundles to a directory with them"
            )
        parts = name.split("/")
        path = self._directory.joinpath(*parts)
        if (
            len(parts) > PARTS_MAX
            or not all(_PART.fullmatch(part) for part in parts)
            or path.suffix not in _TYPES
        ):
            raise _Missing("no file is served under this name")
        return path


class _Missing(Exception):
    """There is no such file; the text says what can be done."""


def _open(path: Path, *, zipped: bool) -> tuple[BinaryIO, int, str, bool] | None:
    """Return a file, its size, what names its content, and whether it is gzip: the one beside it, if wanted."""
    if zipped:
        found = _open_one(path.with_name(path.name + ".gz"))
        if found is not None:
            return *found, True
    found = _open_one(path)
    return None if found is None else (*found, False)


def _open_one(path: Path) -> tuple[BinaryIO, int, str] | None:
    try:
        if not path.is_file():
            return None  # a pipe or a device would never end
        file = path.open("rb")
    except OSError:
        return None
    status = os.fstat(file.fileno())
    return file, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _in_script(key: str) -> bytes:
    """Return a key as it stands between quotes of a script, whichever they are."""
    return json.dumps(key)[1:-1].replace("'", "\\u0027").replace("<", "\\u003c").encode()


def _tag(tag: str, *, zipped: bool) -> bytes:
    return f'"{tag}{"-gzip" if zipped else ""}"'.encode()


def _fresh() -> bytes:
    return b"public, max-age=%d" % FRESH_SECONDS


def _headers(fresh: bytes, tag: bytes, *, zipped: bool) -> Headers:
    headers = [
        *cross_origin(b""),
        (b"cache-control", fresh),
        (b"cross-origin-resource-policy", b"cross-origin"),
        (b"etag", tag),
        (b"vary", b"Accept-Encoding"),
        _NO_SNIFFING,
    ]
    return [*headers, (b"content-encoding", b"gzip")] if zipped else headers


def _takes_gzip(request: Request) -> bool:
    offered = b",".join(request.all(b"accept-encoding")).lower().split(b",")
    names = [one.partition(b";") for one in offered]
    return any(name.strip() == b"gzip" and not _NO_WEIGHT.search(weight) for name, _, weight in names)


def _gzip(content: bytes) -> bytes:
    packer = isal_zlib.compressobj(wbits=_GZIP_WINDOW)
    return packer.compress(content) + packer.flush()
