"""What is remembered of imports."""

import sqlite3
from pathlib import Path

import pytest

from profilelake.errors import Corrupt, Unavailable
from profilelake.imports import progress as progress_module
from profilelake.imports.chunks import Chunk, Known
from profilelake.imports.progress import Progress, Target

ONE, OTHER = Target("w", "s"), Target("w", "s", "page")


def chunk(name: str, previous: str, body: bytes = b"x") -> Chunk:
    return Chunk(name, previous, body, len(body), known=False)


def test_chunks_are_found_by_what_came_before_longest_first(tmp_path: Path) -> None:
    path = tmp_path / "imports.sqlite"
    with Progress.open(path) as progress:
        for made in (
            chunk("b", "a", b"xx"),
            chunk("c", "a", b"xxx"),
            chunk("c", "a", b"xxx"),
            chunk("d", "c"),
        ):
            progress.add(ONE, made)
    with Progress.open(path) as progress:
        assert progress.after(ONE, "a") == [Known(3, "c", 3), Known(2, "b", 2)]
        assert progress.after(ONE, "c") == [Known(1, "d", 1)]
        assert progress.after(ONE, "b") == progress.after(OTHER, "a") == []


def test_two_imports_may_write_at_once(tmp_path: Path) -> None:
    with Progress.open(tmp_path / "i") as one, Progress.open(tmp_path / "i") as other:
        one.add(ONE, chunk("b", "a"))
        other.add(ONE, chunk("c", "b"))
        assert one.after(ONE, "b") == [Known(1, "c", 1)]


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "imports.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(Corrupt, match="move it away"):
        Progress.open(path)


def test_a_file_that_somebody_holds_is_told_as_one_to_come_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "BUSY_SECONDS", 0.05)
    path = tmp_path / "imports.sqlite"
    with Progress.open(path) as progress:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="run the same command again"):
            progress.add(ONE, chunk("b", "a"))
        holder.execute("ROLLBACK")
        holder.close()
        progress.add(ONE, chunk("b", "a"))
        assert progress.after(ONE, "a") == [Known(1, "b", 1)]
    with pytest.raises(Unavailable):
        Progress.open(tmp_path / "no directory" / "imports.sqlite")
