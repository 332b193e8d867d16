"""The compiled walk lists what the plain reference lists, whatever is sent and however it is written."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from profilelake.semantics.shapes import PARTS, UNLISTED, join_path, shapes_of, split_path
from profilelake.shapes.observed import ShapeLimits, Shapes
from shape_examples import canonical, documents, events, keys, listing, values

TYPES = ("identify", "track", "page")
writers = st.sampled_from(
    [
        canonical,
        json.dumps,
        lambda document: json.dumps(document, indent=1),
        lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "replace").decode(),
    ]
)
row = st.fixed_dictionaries(
    {"at": st.integers(0, 10**15), "type": st.sampled_from(TYPES)},
    optional={"event": st.sampled_from(["", "A", "b", "Ω"])}
    | {part: st.builds(lambda write, document: write(document), writers, documents) for part in PARTS},
)
stored = st.fixed_dictionaries(
    {"at": st.integers(0, 10**15), "type": st.sampled_from(TYPES)},
    optional={"event": st.sampled_from(["", "A", "b", "Ω"])}
    | {part: st.builds(canonical, documents) for part in PARTS},
)


def _wanted(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[int]]:
    """Return for each shape when the events with it were received."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for each in rows:
        for part in PARTS:
            for path, json_type in shapes_of(each.get(part) or "{}"):
                shape = (each["type"], each.get("event") or None, part, path, json_type)
                found.setdefault(shape, []).append(each["at"])
    return found


@given(st.lists(row, max_size=5), st.integers(0, 2**64), st.integers(0, 5))
@settings(max_examples=150)
@example([{"at": 1, "type": "page", "context": '{"a":1,"a":"x","\\u0061":true}'}], 0, 0)
@example([{"at": 1, "type": "page", "traits": canonical({"k" * 512: {"x": 1}, "k" * 513: {"x": 1}})}], 0, 0)
@example([{"at": 1, "type": "page", "traits": '{"a":' * 12 + "1" + "}" * 12}], 0, 0)
def test_the_walk_lists_what_the_reference_lists(rows: list[dict[str, Any]], seed: int, cut: int) -> None:
    shapes = Shapes(seed)
    shapes.observe(events(rows[:cut]))
    shapes.observe(events(rows[cut:]))
    wanted = _wanted(rows)
    found = shapes.rows()
    assert listing(found) == wanted.keys()
    assert found.num_rows == len(wanted) == shapes.count
    for shape in found.to_pylist():
        times = wanted[tuple(shape[name] for name in ("type", "event", "part", "path", "json_type"))]
        assert [shape["first_seen_at"].timestamp(), shape["last_seen_at"].timestamp(), shape["events"]] == [
            min(times) / 1e6,
            max(times) / 1e6,
            len(times),
        ]
    loaded = Shapes(seed + 1)
    loaded.load(found)
    loaded.observe(events(rows))
    assert listing(loaded.rows()) == wanted.keys(), "what was loaded is found again"
    assert [2 * n for n in found.column("events").to_pylist()] == loaded.rows().column("events").to_pylist()


@given(st.lists(stored, max_size=5), st.integers(1, 6), st.integers(1, 12), st.integers(1, 2))
@settings(max_examples=60)
def test_limits_hide_paths_and_say_so(
    rows: list[dict[str, Any]], per_part: int, shapes_max: int, events_max: int
) -> None:
    limits = ShapeLimits(shapes_max, per_part, events_max)
    shapes = Shapes(1, limits)
    shapes.observe(events(rows))
    wanted, found = _wanted(rows), listing(shapes.rows())
    hidden = {shape for shape in wanted if shape not in found}
    for type, event, part, _path, json_type in hidden:
        names = {event, UNLISTED}
        assert any(
            shape[0] == type and shape[1] in names and shape[2] == part and shape[4] == json_type
            for shape in found
            if UNLISTED in (shape[1], shape[3])
        )
    assert bool(shapes.unlisted_events) == any(UNLISTED in (shape[1], shape[3]) for shape in found)
    listed = [shape for shape in found if shape[3] != UNLISTED]
    assert len(listed) <= shapes_max
    loaded = Shapes(2, limits)
    loaded.load(shapes.rows())
    before = loaded.count
    loaded.observe(events(rows))
    assert loaded.count == before, "the same events show nothing new"
    assert loaded.unlisted_events == 2 * shapes.unlisted_events


@given(st.lists(st.text(alphabet='{}[]":,\\ 0-9.eE+tfnullrsa\x00é', max_size=40) | st.text(), max_size=8))
@settings(max_examples=150)
@example(['{"a":"x', '{"a":tr', '{"\\x":"\\y"}', '{"a":-', '{"a', '{"a":[', '{"a":{"b', '{"\\'])
def test_what_is_no_json_ends_the_walk_and_nothing_else(texts: list[str]) -> None:
    shapes = Shapes(3)
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    shapes.observe(
        events([{"at": 1, "type": "page", "context": text, "traits": '{"a":1}'} for text in texts])
    )
    kept = [row for row in shapes.rows().to_pylist() if row["part"] == "traits"]
    assert [row["events"] for row in kept] == ([len(texts)] if texts else [])


@given(st.lists(keys, min_size=1, max_size=5))
def test_a_path_tells_its_keys(steps: list[str]) -> None:
    whole = [step.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for step in steps]
    assert split_path(join_path(steps)) == whole
    assert join_path(steps) != UNLISTED


@given(values)
def test_only_objects_have_shapes(value: object) -> None:
    if not isinstance(value, dict):
        assert shapes_of(json.dumps(value)) == set()
