"""Fold a micro-batch of events into the trait writes of sets, which a profile's traits are the join of.

`semantics.last_write` says which write wins; this is its form on the online state.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.profiles.tables import TRAIT_WRITES
from profilelake.semantics.rules import Collection
from profilelake.state.heads import IdentHead, TraitHead
from profilelake.state.records import IdentRecord, ProfileRecord, TraitRecord, wins
from profilelake.state.working import Working

WRITERS: Final[dict[Collection, tuple[str, str]]] = {
    "users": ("identify", "set_id"),
    "accounts": ("group", "account_set_id"),
}
"""Which call writes the traits of which collection, and the column that names its set."""

_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode
_NULL: Final = msgspec.Raw(b"null")
_NAMES_MAX: Final = 4096
"""Names of traits whose JSON form is kept: few names are used again and again."""


def fold_traits(work: Working, events: pa.Table) -> pa.Table:
    """Apply the trait writes of these events; return them as rows of `trait_writes`."""
    tables = [_fold(work, events, collection) for collection in WRITERS]
    return pa.concat_tables(tables)


def _fold(work: Working, events: pa.Table, collection: Collection) -> pa.Table:
    writers = writers_among(events, collection)
    if not writers.num_rows:
        return TRAIT_WRITES.schema().empty_table()
    work.load_traits(writers.column(WRITERS[collection][1]).to_pylist())
    told = list(_written(writers, collection))
    for _, key, written in told:
        _apply(work, key, written)
    return _rows(writers, collection, told)


def writers_among(events: pa.Table, collection: Collection) -> pa.Table:
    """Return the events that write traits of sets of a collection."""
    call, set_column = WRITERS[collection]
    mask = pc.and_(
        pc.equal(events.column("type"), call),
        pc.and_(pc.is_valid(events.column("traits")), pc.is_valid(events.column(set_column))),
    )
    return events.filter(mask)


def trait_rows(writers: pa.Table, collection: Collection) -> pa.Table:
    """Return what events write (`writers_among`) as rows of `trait_writes`."""
    return _rows(writers, collection, list(_written(writers, collection)))


def trait_counts(texts: Iterable[str]) -> list[int]:
    """Return how many traits each of these objects writes."""
    return [len(_decode(text)) for text in texts]


def _written(
    writers: pa.Table, collection: Collection
) -> Iterator[tuple[int, bytes, dict[str, TraitRecord]]]:
    """Yield each event that writes anything: its row, its set, and what it writes."""
    for row, (key, text, timestamp, position, source_id, message_id) in enumerate(
        zip(
            writers.column(WRITERS[collection][1]).to_pylist(),
            writers.column("traits").to_pylist(),
            writers.column("timestamp").cast(pa.int64()).to_pylist(),
            writers.column("position").to_pylist(),
            writers.column("source_id").to_pylist(),
            writers.column("message_id").to_pylist(),
            strict=True,
        )
    ):
        written = {
            name: TraitRecord(
                None if raw == _NULL else bytes(raw).decode(), timestamp, position, source_id, message_id
            )
            for name, raw in _decode(text).items()
        }
        if written:
            yield row, key, written


def _rows(
    writers: pa.Table, collection: Collection, told: Sequence[tuple[int, bytes, Mapping[str, TraitRecord]]]
) -> pa.Table:
    rows: list[int] = []
    names: list[str] = []
    values: list[str | None] = []
    for row, _, written in told:
        rows += [row] * len(written)
        names += written
        values += [write.value for write in written.values()]
    chosen = pa.array(rows, pa.int64())
    columns = {
        "set_id": writers.column(WRITERS[collection][1]).take(chosen),
        "collection": pa.array([collection] * len(rows), pa.string()),
        "trait": pa.array(names, pa.string()),
        "value": pa.array(values, pa.string()),
    }
    schema = TRAIT_WRITES.schema()
    return pa.table(
        [columns[name] if name in columns else writers.column(name).take(chosen) for name in schema.names],
        schema=schema,
    )


def _apply(work: Working, key: bytes, written: Mapping[str, TraitRecord]) -> None:
    held = work.traits.setdefault(key, {})
    won = changed = False
    for name, write in written.items():
        before = held.get(name)
        if wins(write, before):
            held[name] = write
            won = True
            changed = changed or before is None or before.value != write.value
    if won:
        work.touch_traits(key, changed=changed)


def traits_text(traits: Mapping[str, TraitRecord | TraitHead]) -> str:
    """Return the traits that stand as one JSON object, by name; values are the text that was sent."""
    standing = [
        f"{_quoted(name)}:{value}" for name in sorted(traits) if (value := traits[name].value) is not None
    ]
    return "{" + ",".join(standing) + "}"


@lru_cache(maxsize=_NAMES_MAX)
def _quoted(name: str) -> str:
    return _encode(name).decode()


def identifiers_text(profile: ProfileRecord, idents: Mapping[bytes, IdentRecord | IdentHead]) -> str:
    """Return `{type: [values]}` as JSON, types and values sorted."""
    grouped: dict[str, list[str]] = {}
    for type, value in sorted([(type, idents[key].value) for key, type in profile.idents]):
        grouped.setdefault(type, []).append(value)
    return _encode(grouped).decode()
