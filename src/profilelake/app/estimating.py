"""What changes of definitions would do to profiles, told before they are made; and previews."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from profilelake.app.directory import WORKSPACE
from profilelake.app.queries import Queries, queries
from profilelake.audiences.applying import Estimate
from profilelake.audiences.deciding import Change, Defined, load
from profilelake.errors import Invalid, NotFound
from profilelake.lake.catalog import Lake
from profilelake.manage.previews import Preview
from profilelake.ops.clock import wall
from profilelake.plans.preview import Preview as Counted
from profilelake.plans.preview import preview as counted
from profilelake.semantics.definitions import Definition, Held
from profilelake.settings import Layout
from profilelake.state.computed import DefinitionRecord, definition_records
from profilelake.state.store import State

SECONDS_MAX: Final = 120.0
"""How long one definition may be counted; after that how many change is not known."""
LATER: Final = b"\xff" * 32
"""The position of what is not decided yet: behind all there is."""


def estimate(layout: Layout, state: State | None, changes: Sequence[Change]) -> Mapping[str, Estimate]:
    """Return what each change would do, by key, as of what is published."""
    kept, known = records(state), _defined(state)
    after = dict(known.held)
    for change in changes:
        if change.after is not None and change.what != "resync":
            before = known.held.get(change.key)
            version, created = (0, LATER) if before is None else (before.version, before.created)
            after[change.key] = Held(change.after, version + 1, LATER, created)
    with queries(layout, state) as asking:
        return {
            change.key: _told(layout, asking, change, kept.get(change.key), known, after)
            for change in changes
        }


def preview(layout: Layout, state: State | None, definition: Definition, results: int) -> Preview:
    """Return how many profiles a definition would concern now, and at most `results` of them.

    Raises:
        Invalid: it is in SQL, which is not previewed.
    """
    others = {key: held for key, held in _defined(state).held.items() if key != definition.key}
    with queries(layout, state) as asking:
        found = _counted(layout, asking, definition, others)
    if found.failure:
        # A count that nobody made is none, not 0.
        return Preview(
            id="",
            audience_type=definition.target.upper(),
            status="FAILED",
            started_at=found.at,
            failure_reason=found.failure,
        )
    shown = [{"id": profile, "value": json.loads(value)} for profile, value in found.examples[:results]]
    return Preview(
        id="",
        audience_type=definition.target.upper(),
        status="COMPLETED",
        started_at=found.at,
        results=shown,
        size={
            "count": found.size.count,
            "type": definition.target.upper(),
            "low": found.size.low,
            "high": found.size.high,
            "sampled": found.sampled,
            "profiles": found.profiles,
        },
    )


def records(state: State | None) -> dict[str, DefinitionRecord]:
    """Return every key that ever was defined, with where its computation stands."""
    try:
        if state is not None:
            with state.read(WORKSPACE) as tx:
                return definition_records(tx, WORKSPACE)
    except NotFound:
        pass  # nothing was applied yet
    return {}


def _defined(state: State | None) -> Defined:
    try:
        if state is not None:
            with state.read(WORKSPACE) as tx:
                return load(tx, WORKSPACE)
    except NotFound:
        pass  # nothing was applied yet
    return Defined({}, {})


def _told(
    layout: Layout,
    asking: Queries,
    change: Change,
    record: DefinitionRecord | None,
    known: Defined,
    after: Mapping[str, Held],
) -> Estimate:
    members = record.members if record is not None else 0
    if change.what == "resync":
        return Estimate(members, 0, 0, 0, 0)
    if change.after is None or not change.after.enabled:
        return Estimate(members, 0, members, 0, 0)
    held = known.held.get(change.key)
    edited = held is not None and held.definition.enabled
    # What the others will be, but of this one what it is: so the edit is told.
    others = {key: one for key, one in after.items() if key != change.key}
    if held is not None and edited:
        others[change.key] = held
    try:
        found = _counted(layout, asking, change.after, others)
    except Invalid:
        return Estimate(members)  # SQL is computed by nobody in advance
    if found.failure:
        return Estimate(members, rows=found.events)
    if edited and found.change is not None:
        edit = found.change
        return Estimate(members, edit.enter.count, edit.leave.count, edit.change.count, found.events)
    return Estimate(members, found.size.count, 0, 0, found.events)


def _counted(layout: Layout, asking: Queries, definition: Definition, others: Mapping[str, Held]) -> Counted:
    lake = Lake.of(layout)
    enabled = replace(definition, enabled=True)
    return counted(
        lake,
        WORKSPACE,
        enabled,
        others,
        wall(),
        directory=layout.run / "preview-spill",
        ask=asking.results,
        seconds_max=SECONDS_MAX,
    )
