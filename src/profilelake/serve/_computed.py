"""What definitions are worth for a profile: computed traits, and the audiences it is in."""

from typing import Final, NamedTuple

from profilelake.state.computed import decode_computed, definition_records
from profilelake.state.store import Db, Tx

AUDIENCE: Final = "audience"
COMPUTED_TRAIT: Final = "computed_trait"
CLASSES: Final = (AUDIENCE, COMPUTED_TRAIT)
_CLASS_OF: Final = {
    "audience": AUDIENCE,
    "sql_audience": AUDIENCE,
    "trait": COMPUTED_TRAIT,
    "sql_trait": COMPUTED_TRAIT,
}


class ComputedValue(NamedTuple):
    """One value: JSON text, since when it stands (microseconds), and which kind of definition gives it."""

    value: str
    since: int
    kind: str

    @property
    def of(self) -> str:
        """Whether it is an audience or a computed trait, in the words of the Profile API."""
        return _CLASS_OF[self.kind]

    @property
    def by_sql(self) -> bool:
        """Whether a query gives it, and not a condition."""
        return self.kind.startswith("sql_")


class ComputedNames:
    """The keys of definitions by their number, which never means another one; for one process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[str, str]] = {}

    def of(self, tx: Tx, space: str, number: int) -> tuple[str, str] | None:
        """Return key and kind of a definition, None where the state does not know it."""
        found = self._known.get((space, number))
        if found is None:
            for key, record in definition_records(tx, space).items():
                self._known[space, record.number] = key, record.kind
            found = self._known.get((space, number))
        return found


_NAMES: Final = ComputedNames()


def computed(tx: Tx, space: str, profile: bytes) -> dict[str, ComputedValue]:
    """Return what definitions are worth for a profile, by key; one that gives nothing is left out."""
    value = tx.get(space, Db.COMPUTED, profile)
    if value is None:
        return {}
    found: dict[str, ComputedValue] = {}
    for number, held in decode_computed(value).values.items():
        name = _NAMES.of(tx, space, number)
        if name is not None:
            found[name[0]] = ComputedValue(held.value, held.since, name[1])
    return found
