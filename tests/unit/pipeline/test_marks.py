"""Marks of what the tables do not show yet: which are found, and which are taken away."""

from pathlib import Path

import pytest

from profilelake.pipeline.marks import marked, unmark
from profilelake.state.store import Db, State
from profilelake.state.working import Dirty

W = "w"
SETS, PROFILES = Dirty.SET.encode(), Dirty.PROFILE.encode()


@pytest.mark.parametrize("later", [1, 9])
def test_marks_of_later_batches_and_of_waiting_tables_stay(tmp_path: Path, later: int) -> None:
    """Whether few stay or many: they are put back, or the others are taken out one by one."""
    state = State.open(tmp_path, writable=True)
    state.ensure([W])
    old = [(SETS + bytes([n]), 5) for n in range(4)]
    new = [(SETS + bytes([100 + n]), 6) for n in range(later)]
    waiting = [(PROFILES + b"x", 5)]
    with state.write() as tx:
        tx.put_many(W, Db.DIRTY, [(key, mark.to_bytes(8, "big")) for key, mark in old + new + waiting])
        assert marked(tx, W, Dirty.SET, 4) == [key[1:] for key, _ in old + new]
        assert marked(tx, W, Dirty.SET, 5) == [key[1:] for key, _ in new]
        assert marked(tx, W, Dirty.PROFILE, -1) == [b"x"]
        unmark(tx, W, 5, frozenset([PROFILES]))
        assert list(tx.keys(W, Db.DIRTY)) == sorted(key for key, _ in new + waiting)
        unmark(tx, W, 6, frozenset())
        assert list(tx.keys(W, Db.DIRTY)) == []
    state.close()
