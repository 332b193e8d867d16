"""Rows of the published `profiles` table, from the records of the online state."""

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from profilelake.identity.publish import DELETE, change_rows, collections_of, public_ids, slots_of
from profilelake.profiles.consent import consents
from profilelake.profiles.fold import identifiers_text, traits_text
from profilelake.profiles.tables import PROFILES
from profilelake.state.heads import (
    ActivityHead,
    decode_activity_head,
    decode_ident_head,
    decode_set_head,
    decode_trait_heads,
)
from profilelake.state.records import NOBODY, ProfileRecord, decode_traits, joined_traits, received_at
from profilelake.state.store import Db, Tx

CHUNK: Final = 5_000
"""Profiles whose records are in memory at a time."""


def profile_changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    """Return these profiles as they are now; one that lives on in another has its row deleted.

    Counts and last sightings are shown as far as they are settled; a set none of which is settled
    yet counts as seen once.
    """
    return pa.concat_tables(
        [
            _changes(tx, workspace, keys[start : start + CHUNK], sequence)
            for start in range(0, max(len(keys), 1), CHUNK)
        ]
    )


def _changes(tx: Tx, workspace: str, keys: Sequence[bytes], sequence: int) -> pa.Table:
    profiles = tx.profiles(workspace, keys)
    members = sorted([key for profile in profiles.values() for key in profile.sets])
    idents = sorted([key for profile in profiles.values() for key, _ in profile.idents])
    sets = tx.decoded(workspace, Db.SET, members, decode_set_head)
    active = tx.decoded(workspace, Db.ACTIVITY, members, decode_activity_head)
    named = tx.decoded(workspace, Db.IDENT, idents, decode_ident_head)
    writes = tx.get_many(workspace, Db.TRAITS, members)
    first, last, counts = [], [], []
    for profile in profiles.values():
        times = [active.get(key) or ActivityHead(1, sets[key].position) for key in profile.sets]
        first.append(received_at(min([sets[key].position for key in profile.sets])))
        last.append(received_at(max([seen.position for seen in times])))
        counts.append(sum([seen.count for seen in times]))
    found, collections = list(profiles), [profile.collection for profile in profiles.values()]
    standing = [
        public_ids(collections, found),
        collections_of(collections),
        [identifiers_text(profile, named) for profile in profiles.values()],
        [_traits(profile, writes) for profile in profiles.values()],
        consents(tx, workspace, list(profiles.values()), sets),
        first,
        last,
        counts,
        slots_of(found),
    ]
    gone = [key for key in keys if key not in profiles]
    records = tx.decoded(workspace, Db.SET, gone, decode_set_head)
    of_gone = [records[key].collection if key in records else 0 for key in gone]
    # A deleted row shows its key only; the other required columns hold nothing.
    nothing, never = [None] * len(gone), [0] * len(gone)
    deleted = [
        public_ids(of_gone, gone),
        collections_of(of_gone),
        nothing,
        nothing,
        nothing,
        never,
        never,
        never,
        slots_of(gone),
    ]
    return pa.concat_tables(
        [change_rows(PROFILES, sequence, standing), change_rows(PROFILES, sequence, deleted, op=DELETE)]
    )


def _traits(profile: ProfileRecord, writes: Mapping[bytes, bytes]) -> str:
    """Return the traits of a profile; which write is the last one matters only between several sets."""
    writing = [key for key in profile.sets if key in writes]
    if len(writing) == 1:
        return traits_text(decode_trait_heads(writes[writing[0]]))
    return traits_text(joined_traits(profile, {key: decode_traits(writes[key]) for key in writing}))


def written_profiles(
    tx: Tx, workspace: str, db: Db, changed: Sequence[bytes], again: Sequence[bytes]
) -> set[bytes]:
    """Return the profiles that show other traits or consent now than before sets were written.

    `db` says what of the sets. `changed` are those with new values. Those written `again` had their values
    before; that shows only where another set of the profile has written too, and the later write is now
    this one's.
    """
    found = {record.profile for record in tx.decoded(workspace, Db.SET, changed, decode_set_head).values()}
    of_again = (
        {record.profile for record in tx.decoded(workspace, Db.SET, again, decode_set_head).values()}
        - found
        - {NOBODY}
    )
    profiles = tx.profiles(workspace, of_again)
    rivals = {key: profile.sets for key, profile in profiles.items() if len(profile.sets) > 1}
    writing = tx.get_many(workspace, db, {key for keys in rivals.values() for key in keys}).keys()
    found |= {profile for profile, sets in rivals.items() if sum(key in writing for key in sets) > 1}
    return found - {NOBODY}
