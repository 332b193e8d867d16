"""What was decided about one definition, in order."""

from collections.abc import Iterator
from dataclasses import dataclass

from profilelake.audiences import facts
from profilelake.audiences.facts import Define, Drop, Resync
from profilelake.errors import Invalid
from profilelake.semantics import definitions
from profilelake.semantics.definitions import standing
from profilelake.semantics.times import format_time
from profilelake.state.store import Db, Tx


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision: when, what, by whom and why; `version` is the one that holds since then, 0 for none."""

    at: str
    decision: str
    version: int
    by: str
    note: str
    enabled: bool
    query: str


def history(tx: Tx, workspace: str, key: str) -> list[Decision]:
    """Return every decision about a key, the oldest first."""
    said: list[definitions.Fact] = []
    found: list[Decision] = []
    for position, fact in _told(tx, workspace):
        about = fact.definition.key if isinstance(fact, Define) else fact.key
        if about != key:
            continue
        value = facts.in_values(position, fact)
        if value is not None:
            said.append(value)
        held = standing(said).get(key)
        definition = None if held is None else held.definition
        found.append(
            Decision(
                at=format_time(int.from_bytes(position[:8], "big")),
                decision=_word(fact),
                version=0 if held is None else held.version,
                by=fact.by,
                note=fact.note,
                enabled=definition is not None and definition.enabled,
                query="" if definition is None else definition.query,
            )
        )
    return found


def _word(fact: facts.Fact) -> str:
    match fact:
        case Define():
            return "define"
        case Drop():
            return "drop"
        case Resync():
            return "resync"


@dataclass(frozen=True, slots=True)
class Authors:
    """Who defined a key first and last, and when (microseconds); anew after it was dropped counts as first."""

    created_by: str
    created_at: int
    updated_by: str
    updated_at: int


def authors(tx: Tx, workspace: str) -> dict[str, Authors]:
    """Return the authors of every key that is defined."""
    found: dict[str, Authors] = {}
    for position, fact in _told(tx, workspace):
        at = int.from_bytes(position[:8], "big")
        match fact:
            case Define():
                before = found.get(fact.definition.key)
                first = (fact.by, at) if before is None else (before.created_by, before.created_at)
                found[fact.definition.key] = Authors(*first, fact.by, at)
            case Drop(key=key):
                found.pop(key, None)
            case Resync():
                pass
    return found


def _told(tx: Tx, workspace: str) -> Iterator[tuple[bytes, facts.Fact]]:
    """Yield every decision that this program understands; `definitions_now.said` tells of the others."""
    for position, body in tx.items(workspace, Db.DEFINITION_FACT):
        try:
            yield position, facts.decode(body)
        except Invalid:
            continue
