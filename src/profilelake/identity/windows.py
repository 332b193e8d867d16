"""The first event of each set in each window, where rules link people for a time only: each counts once in it."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

from profilelake.identity.replay import WINDOW_BYTES
from profilelake.identity.rows import Sighting
from profilelake.kernels.siphash import HASH_BYTES
from profilelake.state.records import SightingRecord, decode_sighting, encode, received_at
from profilelake.state.store import Db
from profilelake.state.working import Working


def note_first(work: Working, key: bytes, sighting: Sighting, window: int) -> bool:
    """Note an event of a set unless its window has an earlier one; tell whether it was noted."""
    place = _place(key, received_at(sighting.position) // window)
    known = work.tx.get(work.workspace, Db.SIGHTING, place)
    if known is not None and decode_sighting(known).position <= sighting.position:
        return False
    work.tx.put(work.workspace, Db.SIGHTING, place, _encoded(sighting))
    return True


def note_again(work: Working, key: bytes, counted: Sequence[Sighting], window: int) -> None:
    """Let these be all events of a set that count."""
    places = work.tx.keys(work.workspace, Db.SIGHTING, key)
    for place in list(takewhile(lambda place: place[:HASH_BYTES] == key, places)):
        work.tx.delete(work.workspace, Db.SIGHTING, place)
    for sighting in counted:
        note_first(work, key, sighting, window)


def replace_all(work: Working, firsts: Iterable[tuple[bytes, int, Sighting]]) -> None:
    """Let these be the first events of all sets, each with the number of its window."""
    work.tx.clear(work.workspace, Db.SIGHTING)
    items = [(_place(key, number), _encoded(sighting)) for key, number, sighting in firsts]
    if items:
        work.tx.put_many(work.workspace, Db.SIGHTING, items)


def _place(key: bytes, number: int) -> bytes:
    return key + number.to_bytes(WINDOW_BYTES, "big")


def _encoded(sighting: Sighting) -> bytes:
    return encode(SightingRecord(sighting.position, sighting.message_id, sighting.source_id))
