"""Where every accepted event is: the conservation law as numbers.

`accepted = in_lake + duplicates + failed + suppressed + erased + expired + in_flight`, counted in
events. What was accepted is read off the event log, the rest off what the lake's snapshots carry;
nothing is taken from the memory of a process.
"""

from pathlib import Path
from typing import Any, Final

import profilelake
from profilelake.errors import NotFound
from profilelake.eventlog.embedded import ends
from profilelake.manage.limits_hit import read_limits_hit
from profilelake.pipeline.progress import (
    TOTALS,
    Applied,
    Published,
    events_in,
    load_applied,
    load_published,
)
from profilelake.state.store import State

EVENTS_APPLIED: Final = "apply"
EVENTS_PUBLISHED: Final = "publish"
EVENTS_SHOWN: Final = "profiles"
"""What the derived tables show: identity and profiles. `position.committed` waits for them too."""


def accepted_ends(log_directory: Path) -> dict[str, int]:
    """Return how far each log is durable now: the offset everything accepted so far lies before."""
    return {log: end.offset for log, end in ends(log_directory).items()}


def read_status(
    state: State | None, log_directory: Path, limits_report: Path, workspace: str, now: int
) -> dict[str, Any]:
    """Return the status document of a workspace; with no state yet, everything accepted is in flight."""
    applied, published = Applied(""), Published()
    if state is not None:
        try:
            with state.read(workspace) as tx:
                applied = load_applied(tx, workspace, "")
                published = load_published(tx, workspace)
        except NotFound:
            pass  # the pipeline has not come to this workspace yet
    # The log is read after the state: it can only be further on.
    log = ends(log_directory)
    accepted = {name: end.events for name, end in log.items()}
    for name, (_, events) in applied.vector.items():
        accepted[name] = max(events, accepted.get(name, 0))
    total = sum(accepted.values())
    read, committed = events_in(applied.vector), events_in(published.facts_vector)
    counts = {name: published.facts_totals.get(name, 0) for name in TOTALS}
    # What has left its table again is in the totals as what it was; here it is told where it is.
    expired = min(published.failed_expired, counts["failed"])
    counts["failed"] -= expired
    counts["expired"] += expired
    return {
        "version": profilelake.__version__,
        "workspace": workspace,
        "accepted": total,
        **counts,
        "in_flight": total - committed,
        "balanced": committed == sum(counts.values()),
        "position": {
            "accepted": {name: end.offset for name, end in log.items()},
            "committed": {name: offset for name, (offset, _) in published.vector.items()},
        },
        "stages": [
            _stage(EVENTS_APPLIED, total - read, now, applied.watermark),
            _stage(EVENTS_PUBLISHED, read - committed, now, published.facts_at),
            _stage(EVENTS_SHOWN, read - events_in(published.vector), now, published.at),
        ],
        "limits_hit": read_limits_hit(limits_report, now),
    }


def committed(status: dict[str, Any], target: dict[str, int]) -> bool:
    """Tell whether everything before `target` is in state and lake."""
    reached = status["position"]["committed"]
    return all(reached.get(name, 0) >= offset for name, offset in target.items())


def _stage(name: str, events: int, now: int, reached_at: int) -> dict[str, Any]:
    # A stage that never got anywhere has no age to be behind by; its events tell.
    seconds = max(0.0, (now - reached_at) / 1_000_000) if events and reached_at else 0.0
    return {"name": name, "lag_events": events, "lag_seconds": round(seconds, 3)}
