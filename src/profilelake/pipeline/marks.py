"""Marks of what the derived tables do not show yet: set by micro-batches, taken away by publications."""

from profilelake.state.store import Db, Tx
from profilelake.state.working import Dirty


def marked(tx: Tx, workspace: str, kind: Dirty, after: int) -> list[bytes]:
    """Return the keys, sorted, of what was marked in the micro-batches after that one."""
    prefix, first = kind.encode(), (after + 1).to_bytes(8, "big")
    keys = []
    for key, mark in tx.items(workspace, Db.DIRTY, prefix):
        if not key.startswith(prefix):
            break
        if mark >= first:
            keys.append(key[1:])
    return keys


def any_mark(tx: Tx, workspace: str) -> bool:
    """Tell whether anything is marked."""
    return next(tx.keys(workspace, Db.DIRTY), None) is not None


def any_of(tx: Tx, workspace: str, kind: Dirty) -> bool:
    """Tell whether anything of a kind is marked."""
    prefix = kind.encode()
    return next(tx.keys(workspace, Db.DIRTY, prefix), b"").startswith(prefix)


def unmark(tx: Tx, workspace: str, through: int, waiting: frozenset[bytes]) -> None:
    """Take away the marks of the micro-batches through that one, except those that are `waiting`."""
    last = through.to_bytes(8, "big")
    gone: list[bytes] = []
    kept: list[tuple[bytes, bytes]] = []
    for key, mark in tx.items(workspace, Db.DIRTY):
        if mark <= last and key[:1] not in waiting:
            gone.append(key)
        else:
            kept.append((key, mark))
    if len(kept) < len(gone):
        # Micro-batches wait meanwhile, and putting the few back costs less than taking the many out.
        tx.clear(workspace, Db.DIRTY)
        tx.put_many(workspace, Db.DIRTY, kept)
        return
    for key in gone:
        tx.delete(workspace, Db.DIRTY, key)
