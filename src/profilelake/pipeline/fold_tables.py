"""The current tables that the facts in the lake say, whole, from a `Fold`.

Columns only: nothing here is done profile by profile in Python.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.problem import CAUSES, rules_by_strength
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP
from profilelake.kernels import siphash
from profilelake.kernels.base62 import base62
from profilelake.pipeline.fold_facts import Rows, one, position_words, received_at
from profilelake.pipeline.fold_statements import Members, allowed_by_profile, last_statements
from profilelake.pipeline.rebuild import Fold
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.identifiers import PREFIX
from profilelake.semantics.rules import Collection

TEXT_BYTES_MAX: Final = 1 << 30
"""Text of one chunk of a column; offsets inside it have 32 bits."""
_ESCAPED: Final = '["\\\\\\x00-\\x1f]'
"""What JSON writes otherwise inside a text."""
_quote: Final[Callable[[str], bytes]] = msgspec.json.Encoder().encode


def tables(folded: Fold) -> dict[str, pa.Table]:
    """Return the whole current tables of one collection, by name."""
    founding = folded.facts.set_ids[folded.resolution.founding_set]
    names = _public_ids(folded.collection, founding)
    return {
        SET_MAP.name: _set_map(folded, names),
        IDENTIFIERS.name: _identifiers(folded),
        IDENTITY_MAP.name: _identity_map(folded, names),
        IDENTITY_REFUSALS.name: _identity_refusals(folded, names),
        PROFILES.name: _profiles(folded, names, founding),
    }


def _set_map(folded: Fold, names: pa.Array) -> pa.Table:
    ids = folded.facts.set_ids
    return pa.table(
        [
            siphash.to_arrow(ids),
            _repeat(folded.collection, len(ids), pa.string()),
            _taken(siphash.to_arrow(folded.facts.identifiers.ids), folded.anchor_identifiers()),
            _taken(names, folded.resolution.set_profile),
            _taken(names, folded.resolution.set_first_profile),
            _slots(ids),
        ],
        schema=SET_MAP.schema(),
    )


def _identifiers(folded: Fold) -> pa.Table:
    schema = IDENTIFIERS.schema()
    known = folded.facts.identifiers
    columns = ["first_position", "first_message_id", "first_source_id"]
    seen = folded.facts.sightings.select(columns).take(pa.array(folded.facts.first_seen()))
    return pa.table(
        [
            siphash.to_arrow(known.ids),
            _repeat(folded.collection, len(known.ids), pa.string()),
            known.types,
            known.values,
            seen.column("first_source_id"),
            seen.column("first_message_id"),
            pa.array(received_at(seen.column("first_position"))).cast(schema.field("created_at").type),
            seen.column("first_position").cast(schema.field("position").type),
            _slots(known.ids),
        ],
        schema=schema,
    )


def _identity_map(folded: Fold, names: pa.Array) -> pa.Table:
    owned = np.flatnonzero(folded.owners >= 0)
    ids = folded.facts.identifiers.ids[owned]
    return pa.table(
        [
            siphash.to_arrow(ids),
            _repeat(folded.collection, len(owned), pa.string()),
            _taken(names, folded.owners[owned]),
            _slots(ids),
        ],
        schema=IDENTITY_MAP.schema(),
    )


def _identity_refusals(folded: Fold, names: pa.Array) -> pa.Table:
    schema, resolution = IDENTITY_REFUSALS.schema(), folded.resolution
    listed = schema.field("refused").type
    # In the order in which they happened inside each set, which may have several entries.
    order = np.argsort(resolution.refusal_set, kind="stable")
    rows, starts = np.unique(resolution.refusal_set[order], return_index=True)
    known = folded.facts.identifiers
    refused_rows = folded.by_identifier.ident_row[resolution.refusal_ident[order]]
    causes = pa.array([CAUSES.get(code) for code in range(max(CAUSES) + 1)], pa.string())
    types = pa.array([rule.type for rule in rules_by_strength(folded.rules, folded.collection)], pa.string())
    refused = pa.StructArray.from_arrays(
        [
            siphash.to_arrow(known.ids[refused_rows]),
            one(known.types.take(pa.array(refused_rows))),
            _taken(names, folded.refusal_profile[order]),
            causes.take(pa.array(resolution.refusal_cause[order])),
            _taken(types, resolution.refusal_type[order]),
        ],
        fields=list(listed.value_type),
    )
    ids = folded.facts.set_ids[rows]
    offsets = pa.array(np.append(starts, len(order)), pa.int32())
    return pa.table(
        [
            siphash.to_arrow(ids),
            _repeat(folded.collection, len(rows), pa.string()),
            pa.ListArray.from_arrays(offsets, refused, type=listed),
            _repeat(folded.rules.version, len(rows), pa.int32()),
            _slots(ids),
        ],
        schema=schema,
    )


# ---- profiles ----------------------------------------------------------------------------------


def _profiles(folded: Fold, names: pa.Array, founding: siphash.Words) -> pa.Table:
    schema = PROFILES.schema()
    alive = np.flatnonzero(folded.resolution.survivor == np.arange(len(founding)))
    place = np.full(len(founding), -1, dtype=np.int64)
    place[alive] = np.arange(len(alive))
    facts = folded.facts
    belonging = np.flatnonzero(folded.resolution.set_profile >= 0)
    profile = place[folded.resolution.set_profile[belonging]]
    times = received_at(facts.sightings.column("first_position"))[facts.first_sighting[belonging]]
    first = np.full(len(alive), np.iinfo(np.int64).max)
    np.minimum.at(first, profile, times)
    times = received_at(facts.sightings.column("last_position"))[facts.last_sighting[belonging]]
    last = np.zeros(len(alive), dtype=np.int64)
    np.maximum.at(last, profile, times)
    events = np.bincount(profile, weights=facts.events[belonging], minlength=len(alive))
    time = schema.field("first_seen_at").type
    return pa.table(
        [
            names.take(pa.array(alive)),
            _repeat(folded.collection, len(alive), pa.string()),
            _identifiers_texts(folded, place, len(alive)),
            _traits_texts(folded, place, len(alive)),
            _consent_texts(folded, place, len(alive)),
            pa.array(first).cast(time),
            pa.array(last).cast(time),
            pa.array(events.astype(np.int64)),
            _slots(founding[alive]),
        ],
        schema=schema,
    )


def _identifiers_texts(folded: Fold, place: Rows, profiles: int) -> pa.ChunkedArray:
    """Return `profiles.fold.identifiers_text` of every profile."""
    owned = np.flatnonzero(folded.owners >= 0)
    known = folded.facts.identifiers
    types, type = _ranked(known.types.take(pa.array(owned)))
    values = one(known.values.take(pa.array(owned))).cast(pa.large_string())
    profile = place[folded.owners[owned]]
    order = _by_text(profile * len(types) + type, values)
    profile, type = profile[order], type[order]
    first_of_profile = _firsts(profile)
    first_of_type = first_of_profile | _firsts(type)
    tokens = _joined(
        _chosen((",", "],", "{"), first_of_type.astype(np.int8) + first_of_profile),
        _taken(_joined(_quoted(types), ":["), np.where(first_of_type, type, -1)).fill_null(""),
        _quoted(values.take(pa.array(order))),
        _chosen(("", "]}"), _lasts(first_of_profile)),
    )
    return _texts(tokens, profile, profiles)


def _traits_texts(folded: Fold, place: Rows, profiles: int) -> pa.ChunkedArray:
    """Return `profiles.fold.traits_text` of every profile."""
    writes = folded.facts.traits
    owner = folded.resolution.set_profile[writes.column("row").to_numpy()]
    owned = np.flatnonzero(owner >= 0)
    traits = writes if len(owned) == len(owner) else writes.take(pa.array(owned))
    names, trait = _ranked(traits.column("trait"))
    profile = place[owner[owned]]
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


def _consent_texts(folded: Fold, place: Rows, profiles: int) -> pa.ChunkedArray:
    """Return `profiles.consent.consent_text` of every profile, null where it never said."""
    facts = folded.facts
    if not facts.statements.num_rows:
        return pa.chunked_array([pa.nulls(profiles, pa.string())])
    owner = folded.resolution.set_profile.astype(np.int64)
    owner[owner >= 0] = place[owner[owner >= 0]]
    sizes = np.diff(facts.offsets)
    members = Members(np.repeat(np.arange(len(sizes)), sizes), facts.numbers, facts.identifiers.types)
    statements = last_statements(facts.statements)
    profile, category, value = allowed_by_profile(statements, owner, members, folded.policy)
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
    said = owner[statements.sets]
    telling[said[said >= 0]] = True
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


def _public_ids(collection: Collection, ids: siphash.Words) -> pa.Array:
    """Return `public_id` of many ids."""
    digits = base62(np.ascontiguousarray(ids).view(np.uint8).reshape(-1, siphash.HASH_BYTES))
    prefix = np.frombuffer(PREFIX[collection].encode(), dtype=np.uint8)
    text = np.hstack([np.broadcast_to(prefix, (len(digits), len(prefix))), digits])
    ends = np.arange(len(text) + 1, dtype=np.int32) * text.shape[1]
    return pa.StringArray.from_buffers(
        len(text), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(text.tobytes())
    )


def _slots(words: siphash.Words) -> pa.Array:
    first = np.ascontiguousarray(words).view(np.uint8).reshape(-1, siphash.HASH_BYTES)
    return pa.array(first[:, 0].astype(np.int32) * 256 + first[:, 1])


def _taken(values: pa.Array, numbers: npt.NDArray[Any]) -> pa.Array:
    """Return `values[number]`, null where the number is -1."""
    return values.take(pa.array(numbers, pa.int64(), mask=numbers < 0))


def _repeat(value: object, count: int, type: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, type), count)
