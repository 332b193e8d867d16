"""Reads partials off row by row, in plain Python: what a reduction is worth for each identifier set."""

import json
from collections.abc import Iterable, Mapping
from math import floor
from typing import Any

from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.evaluate import Occurred, Subject
from profilelake.semantics.conditions.tree import Between, Reduce, Within
from profilelake.semantics.conditions.values import NANO, SUM_MAX, SUMMED_MAX, plain, text
from profilelake.semantics.definitions import Json
from profilelake.traits.partials import Numbered, Partials, Rows
from profilelake.traits.steps import DAY_MICROS, Family


def worth(partials: Partials, numbered: Numbered, reduce: Reduce, set_id: bytes, at: int) -> Json:
    """Return what a reduction is worth for one set at a time, by partials of that time or with days."""
    match numbered.step.family:
        case Family.COUNT:
            return sum(row["count"] for row in counting(partials, "counts", numbered, set_id, at))
        case Family.NUMBER:
            return _number(reduce, counting(partials, "numbers", numbered, set_id, at))
        case Family.VALUE:
            rows = counting(partials, "values", numbered, set_id, at)
            return _value(reduce, [(row, partials.texts[digest(row)]) for row in rows])
        case Family.EVENTS:
            kept = partials.events.get((set_id, numbered.number), [])
            events = [
                Occurred(
                    event.name,
                    event.at,
                    b"",
                    event.source_id,
                    json.loads(event.properties),
                    json.loads(event.context),
                )
                for event in kept
            ]
            return evaluate.value(reduce, Subject(events), at)


def counting(
    partials: Partials, name: str, numbered: Numbered, set_id: bytes, at: int
) -> list[dict[str, Any]]:
    """Return the rows of a step that count at a time, single events as rows of their own."""
    rows = rows_of(getattr(partials, name), set_id, numbered.number)
    window = numbered.step.of.window
    match window:
        case Within(micros=micros):
            first, last = at - micros, at
        case Between(near=near, far=far):
            first, last = at - far, at - near
        case _:
            return rows
    whole = [row for row in rows if row["bucket"] == 0 or _inside(row["bucket"], first, last)]
    single = [
        entry | {"count": 1, "first": entry["at"], "last": entry["at"]} | _sum_of(entry["number"])
        for entry in rows_of(partials.entries, set_id, numbered.number)
        if not _inside(entry["at"] // DAY_MICROS, first, last) and first <= entry["at"] <= last
    ]
    return whole + single


def _inside(day: int, first: int, last: int) -> bool:
    return first <= day * DAY_MICROS and (day + 1) * DAY_MICROS - 1 <= last


def _sum_of(number: float) -> dict[str, Any]:
    summed = abs(number) <= SUMMED_MAX
    whole = floor(number) if summed else 0
    nano = round((number - whole) * 1e9) if summed else 0
    return {"numbers": int(summed), "whole": whole, "nano": nano, "least": number, "greatest": number}


def rows_of(rows: Rows, set_id: bytes, number: int) -> list[dict[str, Any]]:
    """Return the rows of a set and step."""
    names = rows.rows.dtype.names or ()
    return [
        dict(zip(names, row.tolist(), strict=True))
        for words, row in zip(rows.sets, rows.rows, strict=True)
        if words.tobytes() == set_id and row["step"] == number
    ]


def digest(row: Mapping[str, Any]) -> bytes:
    """Return the digest of a row's value."""
    return int(row["high"]).to_bytes(8, "big") + int(row["low"]).to_bytes(8, "big")


def plain_rows(partials: Partials) -> dict[str, Any]:
    """Return partials as plain values, for comparing."""
    told: dict[str, Any] = {
        name: [(words.tobytes(), *row.tolist()) for words, row in zip(rows.sets, rows.rows, strict=True)]
        for name in ("counts", "numbers", "values", "entries")
        for rows in [getattr(partials, name)]
    }
    asked = {digest(row) for name in ("values", "entries") for row in _dicts(getattr(partials, name))}
    told["texts"] = {key: partials.texts[key] for key in asked if key != bytes(16)}
    told["events"] = {key: list(events) for key, events in partials.events.items()}
    return told


def _dicts(rows: Rows) -> Iterable[dict[str, Any]]:
    names = rows.rows.dtype.names or ()
    return (dict(zip(names, row.tolist(), strict=True)) for row in rows.rows)


def _number(reduce: Reduce, rows: list[dict[str, Any]]) -> Json:
    numbers = sum(row["numbers"] for row in rows)
    if reduce.how in ("min", "max"):
        found = [row["least"] for row in rows] if reduce.how == "min" else [row["greatest"] for row in rows]
        best = min(found, default=float("inf")) if reduce.how == "min" else max(found, default=float("-inf"))
        return None if abs(best) == float("inf") else plain(best)
    whole = sum(row["whole"] for row in rows)
    if not numbers or abs(whole) > SUM_MAX:
        return None
    total = whole * NANO + sum(row["nano"] for row in rows)
    return plain(total / (NANO * (numbers if reduce.how == "avg" else 1)))


def _added_up(rows: list[tuple[dict[str, Any], str]]) -> list[tuple[dict[str, Any], str]]:
    """Return one row per value."""
    found: dict[str, dict[str, Any]] = {}
    for row, said in rows:
        known = found.setdefault(said, {"count": 0, "first": row["first"], "last": row["last"]})
        known["count"] += row["count"]
        known["first"] = min(known["first"], row["first"])
        known["last"] = max(known["last"], row["last"])
    return [(row, said) for said, row in found.items()]


def _value(reduce: Reduce, rows: list[tuple[dict[str, Any], str]]) -> Json:
    if not rows:
        return 0 if reduce.counted else None
    rows = _added_up(rows)
    ranked = sorted(rows, key=lambda one: (text(json.loads(one[1])) or "", one[1]))
    match reduce.how:
        case "first":
            return json.loads(min(rows, key=lambda one: (one[0]["first"], one[1]))[1])
        case "last":
            return json.loads(max(rows, key=lambda one: (one[0]["last"], one[1]))[1])
        case "min":
            return json.loads(ranked[0][1])
        case "max":
            return json.loads(ranked[-1][1])
        case "unique":
            return len(rows) if reduce.counted else [json.loads(said) for _, said in ranked]
        case _:
            often = max(row["count"] for row, _ in rows)
            if often < reduce.least:
                return None
            return next(json.loads(said) for row, said in ranked if row["count"] == often)
