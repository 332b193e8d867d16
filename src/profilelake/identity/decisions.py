"""Decisions about identity as they are shown: in values, with what still holds of them."""

from collections.abc import Iterable, Mapping

import msgspec

from profilelake.identity.facts import Fact, Leave, NewRules, Quarantine, Retract, Standing, Unlink
from profilelake.identity.standing import decisions
from profilelake.semantics.times import format_time
from profilelake.state.records import IdentRecord, received_at
from profilelake.state.store import Tx


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """One decision. `decision` is named as it was asked for; a removal is an unlink.

    `in_force`: no later decision is about the same thing; None where it is not known yet.
    """

    position: str
    at: str
    decision: str
    by: str
    note: str
    identifiers: list[str] = []
    message_id: str | None = None
    removed_from: str | None = None
    rules_version: int | None = None
    in_force: bool | None = None


def listed(tx: Tx, workspace: str, held: Standing, *, after: str = "", rows: int) -> list[Decision]:
    """Return the newest decisions, or the newest of those before the position `after` (hex)."""
    every = [
        (position, fact) for position, fact in decisions(tx, workspace) if not after or position.hex() < after
    ]
    holding = set(held.decided.values())
    newest = every[: -rows - 1 : -1]
    known = tx.idents(workspace, {ident for _, fact in newest for ident in idents_of(fact)})
    return [shown(position, fact, known, in_force=position in holding) for position, fact in newest]


def idents_of(fact: Fact) -> list[bytes]:
    """Return the identifiers a decision is about, by id."""
    match fact:
        case Unlink():
            return [bytes.fromhex(fact.one), bytes.fromhex(fact.other)]
        case Quarantine():
            return [bytes.fromhex(fact.ident)]
        case Leave():
            return [bytes.fromhex(fact.user), bytes.fromhex(fact.account)]
        case _:
            return []


def shown(
    position: bytes, fact: Fact, known: Mapping[bytes, IdentRecord], *, in_force: bool | None = None
) -> Decision:
    """Return a decision as it is shown; an identifier that is not `known` any more shows as its id."""
    match fact:
        case Unlink():
            name = "unlink" if fact.apart else "relink"
        case Quarantine():
            name = "quarantine" if fact.quarantined else "release"
        case Retract():
            name = "restore" if fact.counts else "retract"
        case NewRules():
            name = "rules"
        case Leave():
            name = "leave" if fact.left else "rejoin"
    return Decision(
        position=position.hex(),
        at=format_time(received_at(position)),
        decision=name,
        by=fact.by,
        note=fact.note,
        identifiers=_names(idents_of(fact), known),
        message_id=fact.message_id if isinstance(fact, Retract) else None,
        removed_from=fact.removed_from if isinstance(fact, Unlink) else None,
        rules_version=fact.rules.version if isinstance(fact, NewRules) else None,
        in_force=in_force,
    )


def _names(idents: Iterable[bytes], known: Mapping[bytes, IdentRecord]) -> list[str]:
    found = ((ident, known.get(ident)) for ident in idents)
    return [ident.hex() if one is None else f"{one.type}:{one.value}" for ident, one in found]
