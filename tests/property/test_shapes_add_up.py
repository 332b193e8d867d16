"""Shapes that are counted share by share, and added up, are those that one process counts of all events."""

from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profilelake.plans.shapes import added, within
from profilelake.semantics.shapes import PARTS
from profilelake.shapes.observed import LOCATED, ShapeLimits, Shapes
from shape_examples import canonical, documents, events

row = st.fixed_dictionaries(
    {"at": st.integers(0, 50), "type": st.sampled_from(["track", "page"]), "share": st.integers(0, 3)},
    optional={"event": st.sampled_from(["", "A", "b", "…", "long name"])}
    | {
        part: st.builds(canonical, documents | st.dictionaries(st.sampled_from("abcd"), st.integers()))
        for part in PARTS
    },
)
limits = st.builds(
    ShapeLimits,
    shapes_max=st.integers(1, 30),
    shapes_per_part_max=st.integers(1, 10),
    events_max=st.integers(1, 8),
    event_bytes_max=st.just(4),
)


@given(st.lists(row, max_size=12), st.just(ShapeLimits()) | limits)
@settings(max_examples=150)
@example(
    [{"at": 1, "type": "page", "share": share, "event": "…" * share} for share in (0, 1, 2)],
    ShapeLimits(events_max=3),
)
def test_shares_add_up_to_the_whole(rows: list[dict[str, Any]], limits: ShapeLimits) -> None:
    whole = Shapes(1, limits)
    whole.observe(events(rows))
    wanted = whole.rows().sort_by("schema_id")
    shares, found, groups, full = {row["share"] for row in rows}, [LOCATED.empty_table()], [], False
    for share in sorted(shares):
        shapes = Shapes(2, limits)
        mine = [place for place, row in enumerate(rows) if row["share"] == share]
        positions = pa.array([place.to_bytes(32, "big") for place in mine], pa.binary())
        shapes.observe(events([rows[place] for place in mine]).append_column("position", positions))
        full = full or shapes.full
        found.append(shapes.located())
        groups += shapes.groups
    named = pa.table({"type": [one for one, _ in groups], "event": [one for _, one in groups]}).cast(
        pa.schema([("type", pa.string()), ("event", pa.string())])
    )
    together = added(pa.concat_tables(found)).sort_by("schema_id")
    if not full and within(together, named, limits):
        assert together.equals(wanted)
    else:
        # A limit was near: it must not be said of lakes that are far from it.
        assert limits != ShapeLimits()
