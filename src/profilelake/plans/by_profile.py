"""Step 8 of a rebuild: profiles, from rows of what belongs to them. Makes their table and their online state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.lake.handover import TableFiles
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_facts import Rows, one
from profilelake.pipeline.fold_profiles import Belongings, Owned, Said, Seen, Written, profiles_table
from profilelake.pipeline.fold_statements import Members, last_statements
from profilelake.plans.by_ident import PROFILE_IDENTS
from profilelake.plans.by_set import BELONGING, PROFILES, SAID, WRITTEN
from profilelake.plans.written import (
    Made,
    StateRows,
    collection_codes,
    ids_of,
    keep_state,
    key_order,
    places,
    write_part,
)
from profilelake.profiles import tables
from profilelake.semantics.consent import Policy
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state import packed
from profilelake.state.store import Db

INPUTS: Final = {
    "profiles": PROFILES,
    "belonging": BELONGING,
    "written": WRITTEN,
    "said": SAID,
    "owned": PROFILE_IDENTS,
}
COLUMNS: Final = dict.fromkeys(INPUTS, "profile")


@dataclass(frozen=True)
class GatherProfiles:
    """Makes everything that goes by profiles, of one part."""

    storage: Storage
    folder: str
    profiles: TableFiles
    policy: Policy

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        """Return what was made, as `Made`."""
        known = _in_key_order(rows["profiles"].combine_chunks(), "profile")
        founders = ids_of(known, "profile")
        codes = collection_codes(known)
        made = [
            profiles_table(self._belongings(number, founders[codes == number], rows))
            for number in range(len(COLLECTIONS))
        ]
        return msgspec.msgpack.encode(
            Made(
                tables={tables.PROFILES.name: write_part(self.profiles, pa.concat_tables(made))},
                state=keep_state(
                    self.storage, f"{self.folder}/state", part, [_records(known, founders, rows)]
                ),
                rows=len(founders),
            )
        )

    def _belongings(
        self, collection: int, founders: siphash.Words, rows: Mapping[str, pa.Table]
    ) -> Belongings:
        sets, profile = _of(founders, rows["belonging"])
        idents, owner = _of(founders, rows["owned"])
        writes, writer = _of(founders, rows["written"])
        return Belongings(
            COLLECTIONS[collection],
            founders,
            Seen(profile, *(sets.column(name).to_numpy() for name in ("first_at", "last_at", "events"))),
            Owned(owner, idents.column("type"), idents.column("value")),
            Written(writer, writes),
            self._said(founders, rows["said"], sets, profile),
        )

    def _said(self, founders: siphash.Words, said: pa.Table, sets: pa.Table, profile: Rows) -> Said | None:
        statements, _ = _of(founders, said)
        if not statements.num_rows:
            return None
        telling = np.flatnonzero(sets.column("identifiers").is_valid().to_numpy())
        tellers = sets.take(pa.array(telling)).combine_chunks()
        row = places(ids_of(tellers, "set_id"), ids_of(statements, "set_id"))
        lists = one(tellers.column("identifiers"))
        members = lists.flatten()
        numbers, first = dense_numbers(siphash.from_arrow(members.field("ident_id")))
        return Said(
            last_statements(statements.append_column("row", pa.array(row))),
            profile[telling],
            Members(
                pc.list_parent_indices(lists).to_numpy().astype(np.int64),
                numbers,
                members.field("type").take(pa.array(first)),
            ),
            self.policy,
        )


def _of(founders: siphash.Words, rows: pa.Table) -> tuple[pa.Table, Rows]:
    """Return the rows that belong to these profiles, and to which of them each."""
    profile = places(founders, ids_of(rows, "profile"))
    if (profile < 0).any():
        rows, profile = rows.filter(pa.array(profile >= 0)), profile[profile >= 0]
    return rows.combine_chunks(), profile


def _in_key_order(rows: pa.Table, *names: str) -> pa.Table:
    return rows.take(pa.array(key_order(*(ids_of(rows, name) for name in names)))).combine_chunks()


def _records(known: pa.Table, founders: siphash.Words, rows: Mapping[str, pa.Table]) -> StateRows:
    """Return the records of profiles, which stand in the order of their keys."""
    idents = _in_key_order(rows["owned"].select(["profile", "ident_id", "type"]), "profile", "ident_id")
    sets = _in_key_order(rows["belonging"].select(["profile", "set_id"]), "profile", "set_id")
    # The profiles stand in the same order, so that what belongs to one stands together.
    owner, profile = (places(founders, ids_of(some, "profile")) for some in (idents, sets))
    numbers = np.arange(len(founders) + 1)
    records = packed.record(
        packed.integers(collection_codes(known)),
        packed.binaries(known.column("position")),
        packed.lists(
            packed.record(packed.binaries(idents.column("ident_id")), packed.texts(idents.column("type"))),
            np.searchsorted(owner, numbers),
        ),
        packed.lists(packed.binaries(sets.column("set_id")), np.searchsorted(profile, numbers)),
        packed.integers(known.column("merges").to_numpy()),
    )
    return Db.PROFILE, siphash.to_arrow(founders), records
