"""Step 1 of a rebuild: facts brought together by set."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.lake.catalog import Lake
from profilelake.lake.pinned import PinnedFile, PinnedTable
from profilelake.landing.tables import EVENT_COPIES, EVENTS
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES

_TABLES = (
    IDENTIFIER_SETS,
    SET_SIGHTINGS,
    IDENTIFIERS,
    EVENTS,
    EVENT_COPIES,
    TRAIT_WRITES,
    CONSENT_WRITES,
    ACCOUNT_LINKS,
)


@dataclass(frozen=True)
class FactFiles:
    """The tables of facts as they were at one moment."""

    tables: dict[str, PinnedTable]

    @classmethod
    def of(cls, lake: Lake, workspace: str) -> "FactFiles":
        """Return the tables as the catalog has them now. Raises as `PinnedTable.of`."""
        return cls({table.name: PinnedTable.of(lake, workspace, table.name) for table in _TABLES})

    def adding(self, table: str, files: Iterable[PinnedFile]) -> "FactFiles":
        """Return the same with rows of a table that no snapshot has yet (written by `TableFiles`)."""
        return replace(self, tables=self.tables | {table: self.tables[table].adding(files)})

    def snapshots(self) -> dict[str, list[int]]:
        """Return what a job over these files is named by."""
        return {name: list(table.snapshots) for name, table in self.tables.items()}
