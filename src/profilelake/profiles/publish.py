"""Rows of the published `profiles` table, from the records of the online state."""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from profilelake.identity.publish import DELETE, change_rows, slot_of
from profilelake.profiles.fold import identifiers_text, traits_text
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state.records import NOBODY, collection_name, joined_traits, once, received_at
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
    sets = tx.sets(workspace, {key for profile in profiles.values() for key in profile.sets})
    idents = tx.idents(workspace, {key for profile in profiles.values() for key, _ in profile.idents})
    traits = tx.set_traits(workspace, sets)
    active = tx.activity(workspace, sets)
    rows = []
    for key, profile in profiles.items():
        seen = [sets[member] for member in profile.sets]
        times = [active.get(member) or once(sets[member]) for member in profile.sets]
        rows.append(
            (
                public_id(collection_name(profile.collection), key),
                collection_name(profile.collection),
                identifiers_text(profile, idents),
                traits_text(joined_traits(profile, traits)),
                received_at(min(record.position for record in seen)),
                received_at(max(record.position for record in times)),
                sum(record.count for record in times),
                slot_of(key),
            )
        )
    gone = []
    for key in keys:
        if key in profiles:
            continue
        record = tx.set(workspace, key)
        collection = COLLECTIONS[0] if record is None else collection_name(record.collection)
        # A deleted row shows its key only; the other required columns hold nothing.
        gone.append((public_id(collection, key), collection, None, None, 0, 0, 0, slot_of(key)))
    return pa.concat_tables(
        [change_rows(PROFILES, sequence, rows), change_rows(PROFILES, sequence, gone, op=DELETE)]
    )


def written_profiles(tx: Tx, workspace: str, changed: Sequence[bytes], again: Sequence[bytes]) -> set[bytes]:
    """Return the profiles that show other traits now than before sets were written.

    `changed` are sets with new values. Those written `again` had their values before; that shows only
    where another set of the profile has written traits too, and the later write is now this one's.
    """
    found = {record.profile for record in tx.sets(workspace, changed).values()}
    of_again = {record.profile for record in tx.sets(workspace, again).values()} - found - {NOBODY}
    profiles = tx.profiles(workspace, of_again)
    rivals = {key: profile.sets for key, profile in profiles.items() if len(profile.sets) > 1}
    writing = tx.get_many(workspace, Db.TRAITS, {key for keys in rivals.values() for key in keys}).keys()
    found |= {profile for profile, sets in rivals.items() if sum(key in writing for key in sets) > 1}
    return found - {NOBODY}
