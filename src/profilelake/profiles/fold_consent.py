"""Fold a micro-batch of events into what each set said last about consent.

`semantics.consent` says what that means; this is its form on the online state.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.profiles.tables import CONSENT_WRITES
from profilelake.semantics import consent
from profilelake.state.records import ConsentRecord, decode_consent, encode
from profilelake.state.store import Db
from profilelake.state.working import Working

_TEXTS_MAX: Final = 4096
"""Distinct texts of consent that stay decoded: a site sends the same few again and again."""


def fold_consent(work: Working, events: pa.Table) -> pa.Table:
    """Apply what these events (in position order) say of consent; return it as rows of `consent_writes`.

    Of equal statements of one set only the last of a micro-batch is kept: it says all that they say.
    """
    kept, statements = _last_statements(events)
    if not statements:
        return CONSENT_WRITES.schema().empty_table()
    _apply(work, kept, statements)
    return _rows(kept, statements)


def consent_rows(events: pa.Table) -> pa.Table:
    """Return what these events (in position order) say of consent as rows of `consent_writes`.

    Of equal statements of one set only the last is kept.
    """
    return _rows(*_last_statements(events))


def _last_statements(events: pa.Table) -> tuple[pa.Table, list[Mapping[str, bool]]]:
    """Return the last event of each set that makes a statement, for each distinct one, and what it says."""
    column = events.column("consent")
    if column.null_count == events.num_rows:
        return events.slice(0, 0), []
    made = events.filter(pc.and_(pc.is_valid(column), pc.is_valid(events.column("set_id"))))
    texts = pc.dictionary_encode(made.column("consent")).combine_chunks()
    stated = [_stated(text) for text in texts.dictionary.to_pylist()]
    codes = texts.indices.to_numpy().astype(np.int64)
    telling = np.array([one is not None for one in stated], dtype=np.bool_)[codes]
    rows = np.flatnonzero(telling)
    if not len(rows):
        return events.slice(0, 0), []
    rows = rows[_last_of_equal(made.take(pa.array(rows)), codes[rows], len(stated))]
    kept = made.take(pa.array(rows))
    return kept, [told for code in codes[rows].tolist() if (told := stated[code]) is not None]


@lru_cache(maxsize=_TEXTS_MAX)
def _stated(text: str) -> Mapping[str, bool] | None:
    return consent.stated(text)


def _last_of_equal(made: pa.Table, codes: npt.NDArray[np.int64], texts: int) -> npt.NDArray[np.int64]:
    """Return the row of the last statement of each set and text, in position order."""
    keys = made.column("set_id").cast(pa.binary(siphash.HASH_BYTES)).combine_chunks()
    sets, _ = dense_numbers(siphash.from_arrow(keys))
    groups = sets.astype(np.int64) * texts + codes
    times = made.column("timestamp").cast(pa.int64()).to_numpy()
    order = np.lexsort((times, groups))  # stable: of equal times the greater position is the later row
    last = np.append(np.diff(groups[order]) != 0, True)
    return np.sort(order[last])


def _apply(work: Working, kept: pa.Table, statements: list[Mapping[str, bool]]) -> None:
    names = ("set_id", "position", "source_id", "message_id")
    keys, positions, sources, messages = (kept.column(name).to_pylist() for name in names)
    times = kept.column("timestamp").cast(pa.int64()).to_pylist()
    held = work.tx.decoded(work.workspace, Db.CONSENT, sorted(set(keys)), decode_consent)
    changed: dict[bytes, bool] = {}
    for key, timestamp, position, source_id, message_id, allowed in zip(
        keys, times, positions, sources, messages, statements, strict=True
    ):
        new = ConsentRecord(timestamp, position, source_id, message_id, dict(allowed))
        before = held.get(key)
        held[key] = after = new if before is None else _joined(before, new)
        if after is not before:
            values = before is None or after.allowed != before.allowed
            changed[key] = values or changed.get(key, False)
    work.tx.put_many(work.workspace, Db.CONSENT, [(key, encode(held[key])) for key in changed])
    for key, values in changed.items():
        work.publish_consent(key, changed=values)


def _joined(before: ConsentRecord, new: ConsentRecord) -> ConsentRecord:
    """Return the later of both with every category of either, `before` itself where that says nothing new."""
    later = (new.timestamp, new.position) > (before.timestamp, before.position)
    if later and new.allowed.keys() >= before.allowed.keys():
        return new
    if not later and new.allowed.keys() <= before.allowed.keys():
        return before
    last = new if later else before
    known = sorted({**before.allowed, **new.allowed})
    allowed = {category: last.allowed.get(category, False) for category in known}
    return ConsentRecord(last.timestamp, last.position, last.source_id, last.message_id, allowed)


def _rows(kept: pa.Table, statements: list[Mapping[str, bool]]) -> pa.Table:
    """Return a row for each category of each statement; one that names none has one row without."""
    schema = CONSENT_WRITES.schema()
    told = [(row, *said) for row, allowed in enumerate(statements) for said in _said(allowed)]
    chosen = pa.array([row for row, _, _ in told], pa.int64())
    columns = {
        "category": pa.array([category for _, category, _ in told], pa.string()),
        "allowed": pa.array([allowed for _, _, allowed in told], pa.bool_()),
    }
    return pa.table(
        [columns[name] if name in columns else kept.column(name).take(chosen) for name in schema.names],
        schema=schema,
    )


def _said(allowed: Mapping[str, bool]) -> list[tuple[str | None, bool]]:
    return list(allowed.items()) or [(None, False)]
