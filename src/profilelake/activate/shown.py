"""A destination as people see it: what was said of it and how it goes, never a secret."""

from dataclasses import asdict
from typing import Any

from profilelake.activate.journal import Health
from profilelake.activate.letters import Letters
from profilelake.semantics.times import format_time
from profilelake.workspaces.destinations import Held


def shape(held: Held, health: Health) -> dict[str, Any]:
    """Return it as JSON. Of secrets it has the names."""
    said = asdict(held.destination)
    said["headers"] = dict(held.destination.headers)
    said["integrations"] = dict(held.destination.integrations)
    return said | {
        "state": _state(held, health),
        "paused": held.paused,
        "delivered": health.delivered,
        "delivered_at": _time(health.delivered_at),
        "waiting": health.waiting,
        "dead": health.dead,
        "letters": _letters(health.letters),
        "sweeping": list(health.sweeping),
        "failing_since": _time(health.failing_since),
        "attempts": health.attempts,
        "trouble": _trouble(health),
        "told_through": _time(health.seen_through),
    }


def _state(held: Held, health: Health) -> str:
    if not held.destination.enabled:
        return "disabled"
    if held.paused is not None:
        return "paused"
    if health.letters.full_since:
        return "full"
    if health.failing_since:
        return "failing"
    return "snapshot" if health.sweeping else "live"


def _trouble(health: Health) -> str:
    if not health.letters.full_since:
        return health.trouble
    full = (
        f"there is no room for one more dead letter beside {health.letters.held}, so it is told nothing: replay or"
        " discard some, or raise activate.dead_letters_max and restart"
    )
    return f"{full}; {health.trouble}" if health.trouble else full


def _letters(letters: Letters) -> dict[str, Any]:
    """Return what became of dead letters; `taken` is the sum of all the others."""
    return {
        "taken": letters.taken,
        "held": letters.held,
        "replayed": letters.replayed,
        "outdated": letters.outdated,
        "discarded": letters.discarded,
        "expired": letters.expired,
        "expired_at": _time(letters.expired_at),
        "full_since": _time(letters.full_since),
        "replaying": letters.replaying,
    }


def _time(micros: int) -> str | None:
    return format_time(micros) if micros else None
