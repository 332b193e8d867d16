"""Cuts a stream of lines into chunks, each named by its content and all that stands before it.

So a chunk is recognised wherever it is met again: in the same file after an interruption, in a packed or
renamed copy, or at the start of a file that has grown since.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from profilelake.semantics.events import event_lines

CHUNK_BYTES: Final = 1024 * 1024
"""Bytes of one chunk at most. A part of the names: with other chunks, the same file has other names."""
LINE_BYTES_MAX: Final = CHUNK_BYTES
"""A longer line is cut here. It is too large for an event anyway, and fails as such."""
_FIRST_LINE_BYTES: Final = 4096
_NAME_BYTES: Final = 16
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a file. `known`: they were imported before, and only `name` and `events` are told."""

    name: str
    previous: str
    body: bytes
    events: int
    known: bool
    cut_lines: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """A chunk imported before: how many bytes it has, its name, its events."""

    bytes: int
    name: str
    events: int


def cut(blocks: Iterable[bytes], known: Callable[[str], Sequence[Known]]) -> Generator[Chunk, None, None]:
    """Yield the chunks of a stream, in bounded memory; `known` tells which ones have followed a name.

    A last line without an end is a chunk of its own, so that the rest is the same when it is finished.
    """
    window = _Window(iter(blocks))
    if window.fill().startswith(_BYTE_ORDER_MARK):
        window.drop(len(_BYTE_ORDER_MARK))
    first_line = window.fill()[:_FIRST_LINE_BYTES].partition(b"\n")[0].rstrip(b"\r")
    previous = _name("", b"lines 1\n" + first_line)
    while buffer := window.fill():
        chunk = _met_before(buffer, previous, known(previous)) or _next(buffer, previous)
        window.drop(len(chunk.body))
        if chunk.cut_lines:
            window.drop_line()
        previous = chunk.name
        yield chunk


def _met_before(buffer: bytes, previous: str, known: Sequence[Known]) -> Chunk | None:
    for candidate in known:
        body = buffer[: candidate.bytes]
        if len(body) < candidate.bytes or _name(previous, body) != candidate.name:
            continue
        cut_lines = int(_is_part_of_a_line(body))
        # A last line that was not finished then and is now is another line.
        if cut_lines or body.endswith(b"\n") or buffer[len(body) : len(body) + 1] in (b"", b"\n", b"\r"):
            return Chunk(candidate.name, previous, body, candidate.events, known=True, cut_lines=cut_lines)
    return None


def _next(buffer: bytes, previous: str) -> Chunk:
    # With no line break in reach, it is a last line without an end, or one that is cut.
    body = buffer[: buffer.rfind(b"\n", 0, CHUNK_BYTES) + 1] or buffer[:LINE_BYTES_MAX]
    return Chunk(
        _name(previous, body),
        previous,
        body,
        len(event_lines(body)),
        known=False,
        cut_lines=int(_is_part_of_a_line(body)),
    )


def _is_part_of_a_line(body: bytes) -> bool:
    return len(body) == LINE_BYTES_MAX and b"\n" not in body


def _name(previous: str, body: bytes) -> str:
    digest = hashlib.sha256(previous.encode())
    digest.update(body)
    return digest.digest()[:_NAME_BYTES].hex()


class _Window:
    """The part of a stream that is looked at: `CHUNK_BYTES` at least, unless the stream ends."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._buffer = b""
        self._ended = False

    def fill(self) -> bytes:
        while len(self._buffer) < CHUNK_BYTES and not self._ended:
            self._read()
        return self._buffer

    def drop(self, size: int) -> None:
        self._buffer = self._buffer[size:]

    def drop_line(self) -> None:
        """Drop everything up to the end of the line that the window begins in."""
        while (end := self._buffer.find(b"\n")) < 0 and not self._ended:
            self._buffer = b""
            self._read()
        self._buffer = self._buffer[end + 1 :] if end >= 0 else b""

    def _read(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
        else:
            self._buffer = self._buffer + block if self._buffer else block
