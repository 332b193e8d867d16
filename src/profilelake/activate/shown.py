"""A destination as people see it: what was said of it and how it goes, never a secret."""

from dataclasses import asdict
from typing import Any

from profilelake.activate.journal import Health
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
        "sweeping": list(health.sweeping),
        "failing_since": _time(health.failing_since),
        "attempts": health.attempts,
        "trouble": health.trouble,
        "told_through": _time(health.seen_through),
    }


def _state(held: Held, health: Health) -> str:
    if not held.destination.enabled:
        return "disabled"
    if held.paused is not None:
        return "paused"
    if health.failing_since:
        return "failing"
    return "snapshot" if health.sweeping else "live"


def _time(micros: int) -> str | None:
    return format_time(micros) if micros else None
