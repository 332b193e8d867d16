"""Rows that are kept for a time: whole days of them leave a table, and are counted for ever.

The count is a property of the table and changes in the same commit as the files, so rows and count together are
always what ever came, whoever is killed when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyiceberg.table.snapshots import Operation

from profilelake.lake.commit import Change
from profilelake.lake.progress import PREFIX
from profilelake.lake.table import LakeTable

EXPIRED_ROWS: Final = PREFIX + "expired-rows"
EXPIRED_BEFORE: Final = PREFIX + "expired-before-day"
FILES_MAX: Final = 500
"""Files that one commit lets go of, unless one day has more: a day goes whole."""


@dataclass(frozen=True, slots=True)
class Expired:
    """What has left a table since it is: rows, and the first day (since 1970, UTC) that is whole."""

    rows: int = 0
    before_day: int = 0

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> "Expired":
        """Read the properties of a table."""
        return cls(int(properties.get(EXPIRED_ROWS, "0")), int(properties.get(EXPIRED_BEFORE, "0")))


def expire_days(table: LakeTable, before_day: int, files_max: int = FILES_MAX) -> Expired | None:
    """Have the days before one leave a table that is parted by day, the oldest first; None where there are none.

    One commit, of whole days with about `files_max` files. The files go with the sweep, when no snapshot that is
    kept needs them.

    Raises:
        Conflict: another process commits here.
        Unavailable: the outcome is unknown; call again, nothing is counted twice.
    """
    made: list[Expired] = []

    def plan() -> Change | None:
        old = sorted(
            (file for file in table.files() if file.partition is not None and file.partition < before_day),
            key=lambda file: file.partition or 0,
        )
        if not old:
            return None
        last = old[:files_max][-1].partition or 0
        gone = [file for file in old if (file.partition or 0) <= last]
        held = Expired.of(table.properties())
        now = Expired(held.rows + sum(file.rows for file in gone), max(held.before_day, last + 1))
        made[:] = [now]
        return Change(
            Operation.DELETE,
            removed=frozenset(file.location for file in gone),
            summary=table.carried(),
            properties={EXPIRED_ROWS: str(now.rows), EXPIRED_BEFORE: str(now.before_day)},
        )

    return made[0] if table.commit(plan) else None
