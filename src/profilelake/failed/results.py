"""What became of replayed events, read off the tables they landed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import duckdb

from profilelake.failed.journal import Replay
from profilelake.lake import sql
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import damage_told
from profilelake.landing.tables import EVENTS, FAILED_EVENTS

NEAR_SECONDS: Final = 120
"""How far the time of a replay may lie from the stamp its record got."""
_LOG_AT: Final = 25
"""Where log, offset and index begin in a position written in hex, counted from one."""

State: TypeAlias = Literal["accepted", "failed", "duplicate_or_suppressed", "waiting"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a replay came to; of a failed one, why and where it can be found."""

    state: State
    position: bytes | None = None
    reason: str | None = None


def results(
    lake: Lake, workspace: str, replays: Sequence[Replay], committed: Mapping[str, int]
) -> dict[Replay, Result]:
    """Return the result of each replay; `committed` is how far each log is in the tables."""
    if not replays:
        return {}
    found = {place: (position, reason) for place, position, reason in _landed(lake, workspace, replays)}
    results = {}
    for replay in replays:
        position, reason = found.get(_place(replay), (None, None))
        if position is not None:
            results[replay] = Result("failed" if reason else "accepted", position, reason)
        elif committed.get(replay.log_id, 0) > replay.log_offset:
            results[replay] = Result("duplicate_or_suppressed")
        else:
            results[replay] = Result("waiting")
    return results


def _landed(lake: Lake, workspace: str, replays: Sequence[Replay]) -> list[tuple[Any, ...]]:
    times = [replay.replayed_at for replay in replays]
    near = NEAR_SECONDS * 1_000_000
    values = [min(times) - near, max(times) + near, [_place(replay) for replay in replays]]
    parts = []
    for definition, reason in ((EVENTS, "NULL"), (FAILED_EVENTS, "reason")):
        published = lake.load(workspace, definition.name)
        files = sql.select_files(published.table.schema(), published.files)
        parts.append(
            f"SELECT substr(hex(position), {_LOG_AT}) AS place, position, {reason} FROM ({files}) "  # noqa: S608
            "WHERE received_at BETWEEN make_timestamptz($1) AND make_timestamptz($2) "
            f"AND substr(hex(position), {_LOG_AT}) IN (SELECT unnest($3))"
        )
    with damage_told(), duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar=false")
        lake.storage.attach(connection)
        rows: list[tuple[Any, ...]] = connection.execute(" UNION ALL ".join(parts), values).fetchall()
    return rows


def _place(replay: Replay) -> str:
    return f"{replay.log_id}{replay.log_offset:016x}{replay.index:08x}".upper()
