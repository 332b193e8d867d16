"""What the feed forgets, and what makes destinations look at a profile again; both in transactions of the pipeline."""

from collections.abc import Callable, Iterable
from itertools import islice, takewhile
from typing import Final

from profilelake.activate.feed import FLOOR, TOUCHED_FLOOR
from profilelake.state.computed import decode_change
from profilelake.state.heads import decode_set_head
from profilelake.state.store import Db, State, Tx
from profilelake.state.working import Working

TRIM_MAX: Final = 20_000
"""Changes one transaction removes at most; it takes 50 ms, in which the pipeline waits."""
TRIMS_MAX: Final = 10
"""Transactions that follow each other, so that more is forgotten in a while than was ever announced in one."""


def note_touched(work: Working, at: int) -> None:
    """Have destinations look again at profiles whose identifiers or consent this micro-batch has changed.

    Only those with values: nothing was told of others. To be called when the records are written; `at` is the
    pipeline's time.
    """
    tx, workspace = work.tx, work.workspace
    if not tx.count(workspace, Db.COMPUTED):
        return
    heads = tx.decoded(workspace, Db.SET, work.consented, decode_set_head)
    touched = work.written(Db.PROFILE) | {head.profile for head in heads.values() if head.profile}
    put_touched(tx, workspace, work.sequence, touched, at)


def put_touched(tx: Tx, workspace: str, sequence: int, profiles: Iterable[bytes], at: int) -> None:
    """Note those of some profiles that have values."""
    known = tx.get_many(workspace, Db.COMPUTED, sorted(profiles))
    prefix, time = sequence.to_bytes(8, "big"), at.to_bytes(8, "big")
    tx.put_many(workspace, Db.TOUCHED, [(prefix + key, time) for key in known])


def trim(state: State, workspace: str, before: int, rest: Callable[[], object]) -> int:
    """Forget changes from before a time (microseconds of the pipeline); return how many went.

    What is left after some transactions, with a `rest` behind each, goes the next time.

    Raises:
        Unavailable: the disk or the map is full.
    """
    went = 0
    for _ in range(TRIMS_MAX):
        changes, touched = trim_some(state, workspace, before)
        went += changes
        if max(changes, touched) < TRIM_MAX:
            break
        rest()
    return went


def trim_some(state: State, workspace: str, before: int) -> tuple[int, int]:
    """Forget changes, and profiles to look at again, from before a time; return how many of each went.

    Not all at once: a transaction that removes many would hold up the pipeline.

    Raises:
        Unavailable: the disk or the map is full; nothing was changed.
    """
    with state.read(workspace) as tx:
        if not (_old(tx, workspace, before, 1) or _old_touched(tx, workspace, before, 1)):
            return 0, 0
    with state.write() as tx:
        changes = _old(tx, workspace, before, TRIM_MAX)
        touched = _old_touched(tx, workspace, before, TRIM_MAX)
        for db, floor, keys in ((Db.CHANGE, FLOOR, changes), (Db.TOUCHED, TOUCHED_FLOOR, touched)):
            for key in keys:
                tx.delete(workspace, db, key)
            if keys:
                tx.put_meta(workspace, floor, keys[-1])
    return len(changes), len(touched)


def _old(tx: Tx, workspace: str, before: int, most: int) -> list[bytes]:
    items = islice(tx.items(workspace, Db.CHANGE), most)
    return [key for key, _ in takewhile(lambda item: decode_change(item[1]).at < before, items)]


def _old_touched(tx: Tx, workspace: str, before: int, most: int) -> list[bytes]:
    items = islice(tx.items(workspace, Db.TOUCHED), most)
    return [key for key, _ in takewhile(lambda item: int.from_bytes(item[1], "big") < before, items)]
