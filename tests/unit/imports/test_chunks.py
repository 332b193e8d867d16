"""Chunks: the same bytes give the same names, however they come in; what was imported is recognised."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.imports import chunks
from profilelake.imports.chunks import Chunk, Known, cut
from profilelake.semantics.events import event_lines

LINES = st.lists(st.sampled_from((b"{}", b"", b" ", b'{"a":1}', b"x" * 30, b"y" * 70)), max_size=60)


class Memory:
    """Remembers chunks as an import does."""

    def __init__(self) -> None:
        self._after: dict[str, list[Known]] = {}

    def after(self, previous: str) -> list[Known]:
        return sorted(self._after.get(previous, []), key=lambda known: -known.bytes)

    def add(self, chunk: Chunk) -> None:
        known = Known(len(chunk.body), chunk.name, chunk.events)
        if known not in self._after.setdefault(chunk.previous, []):
            self._after[chunk.previous].append(known)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after few bytes, so that few bytes make many chunks."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 64)
    monkeypatch.setattr(chunks, "LINE_BYTES_MAX", 64)
    monkeypatch.setattr(chunks, "_FIRST_LINE_BYTES", 64)


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def cut_all(data: bytes, memory: Memory | None = None, size: int = 50) -> list[Chunk]:
    memory = memory or Memory()
    found = []
    for chunk in cut(blocks(data, size), memory.after):
        memory.add(chunk)
        found.append(chunk)
    return found


@settings(max_examples=200)
@given(LINES, st.integers(1, 200), st.booleans())
def test_nothing_is_lost_and_no_line_is_torn(lines: list[bytes], size: int, ended: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    found = cut_all(data, size=size)
    whole = b"\n".join(line[:64] for line in data.split(b"\n"))
    assert b"\n".join(event_lines(b"\n".join(chunk.body for chunk in found))) == b"\n".join(
        event_lines(whole)
    )
    assert sum(chunk.events for chunk in found) == len(event_lines(data))
    assert sum(chunk.cut_lines for chunk in found) == sum(len(line) >= 64 for line in data.split(b"\n"))
    assert all(len(chunk.body) <= 64 for chunk in found)
    assert [chunk.name for chunk in found] == [chunk.name for chunk in cut_all(data)]


@settings(max_examples=200)
@given(LINES, LINES, st.booleans())
def test_a_file_that_has_grown_brings_only_what_is_new(
    lines: list[bytes], more: list[bytes], ended: bool
) -> None:
    memory = Memory()
    before = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    cut_all(before, memory)
    # What is added begins with a line of its own.
    after = before + (b"" if before.endswith(b"\n") or not before else b"\n") + b"\n".join(more)
    new = [chunk for chunk in cut_all(after, memory) if not chunk.known]
    if before.partition(b"\n")[0] == after.partition(b"\n")[0]:
        assert sum(chunk.events for chunk in new) == len(event_lines(after)) - len(event_lines(before))


def test_a_line_finished_later_is_another_line() -> None:
    memory = Memory()
    cut_all(b'{"n":1}\n{"n":', memory)
    found = cut_all(b'{"n":1}\n{"n":2}\n', memory)
    assert [(chunk.body, chunk.known) for chunk in found] == [(b'{"n":1}\n', True), (b'{"n":2}\n', False)]


def test_other_lines_before_give_other_names() -> None:
    one, other = cut_all(b"a\n" + b"x" * 60 + b"\ny\n"), cut_all(b"b\n" + b"x" * 60 + b"\ny\n")
    assert one[-1].body == other[-1].body
    assert {chunk.name for chunk in one}.isdisjoint(chunk.name for chunk in other)


def test_equal_parts_of_one_file_are_told_apart() -> None:
    found = cut_all((b"z" * 31 + b"\n") * 6)
    assert len({chunk.body for chunk in found}) == 1
    assert len({chunk.name for chunk in found}) == len(found) == 3


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    marked, plain = cut_all(b"\xef\xbb\xbf{}\n"), cut_all(b"{}\n")
    assert marked == plain
    assert cut_all(b"\xef\xbb\xbf") == cut_all(b"") == []
