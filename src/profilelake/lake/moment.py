"""Tables as they all were at one moment, while another process commits to them one after the other.

A SQL catalog tells all pointers in one read, and what is loaded is held against that. A REST catalog is asked for one
table after the other, twice: where nothing has moved between the two, all of it was there at once in between.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from profilelake.errors import NotFound, Unavailable
from profilelake.lake.catalog import Lake, PublishedTable, namespace_of
from profilelake.lake.progress import Progress
from profilelake.lake.schema import changes_definition
from profilelake.lake.tables import Part, TableDef

TRIES_MAX: Final = 100
"""How often the tables are looked at again, because one was committed to meanwhile."""
PAUSE_SECONDS: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.2
"""Before the next look; longer each time, up to the last."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Some tables of a workspace at one moment. `load` gives them as `Lake.load` would have then."""

    workspace: str
    tables: Mapping[str, PublishedTable]

    def load(self, workspace: str, name: str, part: Part = "") -> PublishedTable:
        """Return a table as it was. Raises NotFound for one that is not among these."""
        if workspace != self.workspace or part or name not in self.tables:
            raise NotFound(
                f"reading {name} of workspace {workspace}: it is none of the tables of this moment"
            )
        return self.tables[name]

    def snapshots(self) -> dict[str, int | None]:
        """Return the snapshot of each table, logs of changes included; None where nothing was ever committed."""
        found = {name: table.table.current_snapshot() for name, table in self.tables.items()}
        return {name: None if one is None else one.snapshot_id for name, one in found.items()}

    def progress(self, name: str) -> Progress | None:
        """Return how far a table had come, with its changes."""
        stands = [
            table.progress for table in map(self.tables.get, (name, f"{name}_changes")) if table is not None
        ]
        return max(filter(None, stands), key=lambda one: (one.epoch, one.sequence), default=None)


def moment(lake: Lake, workspace: str, definitions: Sequence[TableDef]) -> Moment:
    """Return tables of a workspace as they all are at one moment of now.

    Raises:
        NotFound: there is no such table.
        Unavailable: the catalog does not answer, or at each of `TRIES_MAX` looks one of the tables had moved.
    """
    names = [
        name
        for one in definitions
        for name in (one.name, *([changes_definition(one).name] if one.kind == "current" else ()))
    ]
    for attempt in range(TRIES_MAX):
        if attempt:
            time.sleep(min(PAUSE_SECONDS_MAX, PAUSE_SECONDS * attempt))
        before = {} if lake.place.kind == "rest" else lake.pointers()
        tables = {name: lake.load(workspace, name) for name in names}
        then = before or {
            (namespace_of(workspace, ""), name): lake.load(workspace, name).table.metadata_location
            for name in names
        }
        if all(
            then.get((namespace_of(workspace, ""), name)) == table.table.metadata_location
            for name, table in tables.items()
        ):
            return Moment(workspace, tables)
    raise Unavailable(
        f"reading tables of workspace {workspace} of one moment: at each of {TRIES_MAX} looks one of {', '.join(names)} "
        "had been committed to meanwhile; run it again, or while less comes in"
    )
