"""Writes very many profiles of about 1 KB straight into a state, with the product's own record encoders."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from profilelake.kernels import siphash
from profilelake.semantics.identifiers import ident_prefix, set_prefix
from profilelake.semantics.positions import Position
from profilelake.state.records import (
    ActivityRecord,
    IdentRecord,
    ProfileRecord,
    SetRecord,
    TraitRecord,
    encode,
)
from profilelake.state.store import Db, State

BEGIN: Final = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z"""
BATCH: Final = 200_000
"""Profiles of one transaction: many, so that keys are put in order."""
TYPES: Final = ("user_id", "email", "anonymous_id")
_TRAITS: Final = {
    "first_name": '"Ana"',
    "last_name": '"Benedetti"',
    "plan": '"club"',
    "visits": "421",
    "revenue": "1024.50",
    "locale": '"en-GB"',
    "newsletter": "true",
    "address": '{"city":"Torino","country":"IT","zip":"10121"}',
    "tags": '["vip","returning"]',
}
TRAITS_EACH: Final = len(_TRAITS) + 1


def position(number: int) -> bytes:
    """Return where event `number` stands."""
    return Position(BEGIN + number, "here", "00" * 8, number, 0).to_bytes()


def fill(state: State, space: str, key: bytes, profiles: int, *, batch: int = BATCH) -> list[bytes]:
    """Write people of one user id (`u0000000` and on), one e-mail and one device each; return their sets."""
    state.ensure([space])
    sets: list[bytes] = []
    for start in range(0, profiles, batch):
        items: dict[Db, list[tuple[bytes, bytes]]] = {
            db: [] for db in (Db.IDENT, Db.SET, Db.PROFILE, Db.TRAITS, Db.ACTIVITY)
        }
        sets += _batch(key, range(start, min(start + batch, profiles)), items)
        with state.write() as tx:
            for db, stored in items.items():
                tx.put_many(space, db, stored)
    return sets


def _batch(key: bytes, numbers: range, items: dict[Db, list[tuple[bytes, bytes]]]) -> Iterator[bytes]:
    values = [
        [f"u{n:07}" for n in numbers],
        [f"u{n:07}@example.org" for n in numbers],
        [f"a-{n:07}" for n in numbers],
    ]
    words = np.stack(
        [
            siphash.hash_strings(key, ident_prefix("users", type), pa.array(of))
            for type, of in zip(TYPES, values, strict=True)
        ],
        axis=1,
    ).reshape(-1, 2)
    offsets = np.arange(0, len(words) + 1, len(TYPES), dtype=np.int64)
    founders = siphash.to_bytes(siphash.set_ids(key, set_prefix("users"), words, offsets))
    idents = siphash.to_bytes(words)
    for at, number in enumerate(numbers):
        founder, own = founders[at], idents[3 * at : 3 * at + 3]
        _profile(number, founder, own, [of[at] for of in values], items)
    return iter(founders)


def _profile(
    number: int,
    founder: bytes,
    own: list[bytes],
    values: list[str],
    items: dict[Db, list[tuple[bytes, bytes]]],
) -> None:
    place, message = position(number), f"m{number}"
    for ident, type, value in zip(own, TYPES, values, strict=True):
        record = IdentRecord(0, type, value, "web", message, BEGIN, place, founder)
        items[Db.IDENT].append((ident, encode(record)))
    seen = SetRecord(0, b"".join(sorted(own)), own[0], founder, founder, place, message, "web")
    items[Db.SET].append((founder, encode(seen)))
    items[Db.ACTIVITY].append((founder, encode(ActivityRecord(5, place, message, "web"))))
    traits = {name: TraitRecord(value, BEGIN, place, "web", message) for name, value in _TRAITS.items()}
    traits["email"] = TraitRecord(f'"{values[1]}"', BEGIN, place, "web", message)
    items[Db.TRAITS].append((founder, encode(traits)))
    pairs = list(zip(own, TYPES, strict=True))
    items[Db.PROFILE].append((founder, encode(ProfileRecord(0, place, pairs, [founder]))))
