"""Profiles of one collection as rows of their table, from columns of what belongs to them.

Columns only: nothing here is done profile by profile in Python. Where the columns come from, a whole fold or
a part of one, makes no difference to the bytes of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels import siphash
from profilelake.kernels.base62 import base62
from profilelake.kernels.slots import slots_of
from profilelake.pipeline.fold_facts import Rows, one, position_words
from profilelake.pipeline.fold_statements import Members, Statements, allowed_by_profile
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.consent import Policy
from profilelake.semantics.identifiers import PREFIX
from profilelake.semantics.rules import Collection

TEXT_BYTES_MAX: Final = 1 << 30
"""Text of one chunk of a column; offsets inside it have 32 bits."""
_ESCAPED: Final = '["\\\\\\x00-\\x1f]'
"""What JSON writes otherwise inside a text."""
_quote: Final[Callable[[str], bytes]] = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Seen:
    """The sets of profiles: whose each is, when it was seen first and last (microseconds), and how often."""

    profile: Rows
    first_at: Rows
    last_at: Rows
    events: Rows


@dataclass(frozen=True, slots=True)
class Owned:
    """The identifiers of profiles: whose each is, its type and its value."""

    profile: Rows
    types: pa.Array | pa.ChunkedArray
    values: pa.Array | pa.ChunkedArray


@dataclass(frozen=True, slots=True)
class Written:
    """Writes of traits: whose each is, with `trait`, `value`, `timestamp` and `position`."""

    profile: Rows
    writes: pa.Table


@dataclass(frozen=True, slots=True)
class Said:
    """What sets said last of consent, whose each set is (by its row; -1: nobody's), and their identifiers."""

    statements: Statements
    profile: Rows
    members: Members
    policy: Policy


@dataclass(frozen=True, slots=True)
class Belongings:
    """What belongs to the profiles of one collection.

    A profile is its place in `founders`, the ids of the sets that founded them. `said` is None where nobody
    ever said anything of consent.
    """

    collection: Collection
    founders: siphash.Words
    seen: Seen
    owned: Owned
    written: Written
    said: Said | None


def profiles_table(belongings: Belongings) -> pa.Table:
    """Return the rows of the table of profiles, in the order of `founders`."""
    schema, count = PROFILES.schema(), len(belongings.founders)
    seen = belongings.seen
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, seen.profile, seen.first_at)
    last = np.zeros(count, dtype=np.int64)
    np.maximum.at(last, seen.profile, seen.last_at)
    events = np.bincount(seen.profile, weights=seen.events, minlength=count)
    time = schema.field("first_seen_at").type
    return pa.table(
        [
            public_ids(belongings.collection, belongings.founders),
            repeated(belongings.collection, count, pa.string()),
            _identifiers_texts(belongings.owned, count),
            _traits_texts(belongings.written, count),
            _consent_texts(belongings.said, count),
            pa.array(first).cast(time),
            pa.array(last).cast(time),
            pa.array(events.astype(np.int64)),
            slots(belongings.founders),
        ],
        schema=schema,
    )


def _identifiers_texts(owned: Owned, profiles: int) -> pa.ChunkedArray:
    """Return `profiles.fold.identifiers_text` of every profile."""
    types, type = _ranked(owned.types)
    values = one(owned.values).cast(pa.large_string())
    order = _by_text(owned.profile * len(types) + type, values)
    profile, type = owned.profile[order], type[order]
    first_of_profile = _firsts(profile)
    first_of_type = first_of_profile | _firsts(type)
    tokens = _joined(
        _chosen((",", "],", "{"), first_of_type.astype(np.int8) + first_of_profile),
        taken(_joined(_quoted(types), ":["), np.where(first_of_type, type, -1)).fill_null(""),
        _quoted(values.take(pa.array(order))),
        _chosen(("", "]}"), _lasts(first_of_profile)),
    )
    return _texts(tokens, profile, profiles)


def _traits_texts(written: Written, profiles: int) -> pa.ChunkedArray:
    """Return `profiles.fold.traits_text` of every profile."""
    traits, profile = written.writes, written.profile
    names, trait = _ranked(traits.column("trait"))
    last = last_writes(traits, profile * len(names) + trait)
    value = one(traits.column("value").take(pa.array(last)))
    standing = value.is_valid()
    last, value = last[standing.to_numpy(zero_copy_only=False)], value.filter(standing)
    profile, trait = profile[last], trait[last]
    first = _firsts(profile)
    tokens = _joined(
        _chosen((",", "{"), first),
        _joined(_quoted(names), ":").take(pa.array(trait)),
        value.cast(pa.large_string()),
        _chosen(("", "}"), _lasts(first)),
    )
    return _texts(tokens, profile, profiles)


def _consent_texts(said: Said | None, profiles: int) -> pa.ChunkedArray:
    """Return `profiles.consent.consent_text` of every profile, null where it never said."""
    if said is None:
        return pa.chunked_array([pa.nulls(profiles, pa.string())])
    profile, category, value = allowed_by_profile(said.statements, said.profile, said.members, said.policy)
    first = _firsts(profile)
    tokens = _joined(
        _chosen((",", "{"), first),
        _quoted(category.cast(pa.large_string())),
        ':"',
        value.cast(pa.large_string()),
        _chosen(('"', '"}'), _lasts(first)),
    )
    texts = _texts(tokens, profile, profiles)
    telling = np.zeros(profiles, dtype=np.bool_)
    owners = said.profile[said.statements.sets]
    telling[owners[owners >= 0]] = True
    return pc.if_else(pa.array(telling), texts, pa.scalar(None, pa.string()))


def last_writes(traits: pa.Table, groups: Rows) -> Rows:
    """Return the row of the last write of each group, groups in ascending order."""
    order = np.argsort(groups, kind="stable")
    alone = _firsts(groups[order])
    alone &= _lasts(alone).astype(np.bool_)
    rivals = order[~alone]
    written = traits.select(["timestamp", "position"]).take(pa.array(rivals))
    # `lexsort` takes the last key first.
    keys = [*position_words(written.column("position")).T[::-1], written.column("timestamp").to_numpy()]
    ranked = rivals[np.lexsort([*keys, groups[rivals]])]
    order[~alone] = ranked
    ends: Rows = order[_lasts(_firsts(groups[order])).astype(np.bool_)]
    return ends


# ---- text, column by column --------------------------------------------------------------------


def _ranked(texts: pa.ChunkedArray) -> tuple[pa.Array, Rows]:
    """Return the distinct texts in order, and for each row the place of its text there."""
    distinct = pa.array(sorted(pc.unique(texts).to_pylist()), pa.large_string())
    place = pc.index_in(texts.cast(pa.large_string()), value_set=distinct)
    return distinct, place.to_numpy().astype(np.int64)


def _by_text(groups: Rows, texts: pa.Array) -> Rows:
    """Return the order of rows by group, then by text."""
    heads = _heads(texts)
    order = np.lexsort((heads, groups))
    same = np.flatnonzero((np.diff(groups[order]) == 0) & (heads[order][1:] == heads[order][:-1]))
    if len(same):
        # Eight bytes decide nearly always; what they leave open is compared as text.
        tied = np.zeros(len(order), dtype=np.bool_)
        tied[same] = tied[same + 1] = True
        places = np.flatnonzero(tied)
        rows = order[places]
        by_text = pc.sort_indices(texts.take(pa.array(rows)).cast(pa.large_binary())).to_numpy()
        rows = rows[by_text]
        order[places] = rows[np.argsort(groups[rows], kind="stable")]
    return order


def _heads(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of texts as numbers that sort as they do."""
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data or b"", dtype=np.uint8)
    heads = np.zeros(len(texts), dtype=np.uint64)
    for byte in range(8):
        at = starts[:-1] + byte
        there = at < starts[1:]
        heads[there] |= content[at[there]].astype(np.uint64) << np.uint64(56 - 8 * byte)
    return heads


def _quoted(texts: pa.Array) -> pa.Array:
    """Return texts as JSON."""
    plain = _joined(pa.scalar('"', pa.large_string()), texts, '"')
    odd = pc.match_substring_regex(texts, _ESCAPED)
    if not pc.any(odd).as_py():
        return plain
    escaped = [_quote(text).decode() for text in texts.filter(odd).to_pylist()]
    return pc.replace_with_mask(plain, odd, pa.array(escaped, pa.large_string()))


def _joined(*parts: pa.Array | pa.Scalar | str) -> pa.Array:
    """Return the parts of each row in one text."""
    large = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*large, pa.scalar("", pa.large_string()))


def _chosen(options: tuple[str, ...], codes: npt.NDArray[Any]) -> pa.Array:
    return pa.array(options, pa.large_string()).take(pa.array(codes.astype(np.int8)))


def _firsts(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where a run of equal values begins."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _lasts(firsts: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return where the runs end that begin there."""
    return np.append(firsts[1:], True)[: len(firsts)]


def _texts(tokens: pa.Array, profile: Rows, profiles: int) -> pa.ChunkedArray:
    """Return for each profile its tokens in one text, `{}` where it has none.

    Tokens of one profile stand one after the other, so their bytes do too.
    """
    _, offsets, data = tokens.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[: len(tokens) + 1]
    ends = starts[np.searchsorted(profile, np.arange(profiles + 1))]
    chunks: list[pa.Array] = []
    begin = 0
    while begin < profiles or not chunks:
        stop = int(np.searchsorted(ends, ends[begin] + TEXT_BYTES_MAX, side="right")) - 1
        stop = max(stop, min(begin + 1, profiles))
        part = ends[begin : stop + 1]
        content = (data or pa.py_buffer(b"")).slice(int(part[0]), int(part[-1] - part[0]))
        inside = pa.py_buffer((part - part[0]).astype(np.int32))
        text = pa.StringArray.from_buffers(len(part) - 1, inside, content)
        chunks.append(pc.if_else(pc.equal(pc.binary_length(text), 0), pa.scalar("{}"), text))
        begin = stop
    return pa.chunked_array(chunks, pa.string())


# ---- small columns -----------------------------------------------------------------------------


def public_ids(collection: Collection, ids: siphash.Words) -> pa.Array:
    """Return `public_id` of many ids."""
    digits = base62(np.ascontiguousarray(ids).view(np.uint8).reshape(-1, siphash.HASH_BYTES))
    prefix = np.frombuffer(PREFIX[collection].encode(), dtype=np.uint8)
    text = np.hstack([np.broadcast_to(prefix, (len(digits), len(prefix))), digits])
    ends = np.arange(len(text) + 1, dtype=np.int32) * text.shape[1]
    return pa.StringArray.from_buffers(
        len(text), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(text.tobytes())
    )


def slots(ids: siphash.Words) -> pa.Array:
    """Return the first 16 bits of each id, as the tables' column `slot` has them."""
    return pa.array(slots_of(ids))


def taken(values: pa.Array, numbers: npt.NDArray[Any]) -> pa.Array:
    """Return `values[number]`, null where the number is -1."""
    return values.take(pa.array(numbers, pa.int64(), mask=numbers < 0))


def repeated(value: object, count: int, type: pa.DataType) -> pa.Array:
    """Return a column of one value."""
    return pa.repeat(pa.scalar(value, type), count)
