"""Cases of definition files on the columnar form, which is what a server computes with."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from profilelake.definitions.testing import Known
from profilelake.semantics.conditions.evaluate import Occurred, Subject
from profilelake.semantics.conditions.tree import Reduce
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Held, Json
from profilelake.traits.answers import answers
from profilelake.traits.columns import Subjects
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered
from profilelake.traits.steps import planned

_EVENTS: Final = pa.schema(
    [
        ("set_id", pa.binary(16)),
        ("type", pa.string()),
        ("event", pa.string()),
        ("name", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("source_id", pa.string()),
        ("position", pa.binary(32)),
        ("properties", pa.string()),
        ("context", pa.string()),
    ]
)


def columns(known: Known, subject: Subject, at: int, accounts: bool) -> Mapping[str, Json]:
    """Return what definitions are worth for one subject, as the server computes it."""
    plan = planned({definition.key: Held(definition, 1, b"", b"") for definition, _ in known})
    steps = {step.digest: step for one in plan for step in one.steps.values()}
    numbered = [Numbered(number, step) for number, step in enumerate(steps.values(), 1)]
    people = list(subject.users) if accounts else [subject]
    happened = [(place, event) for place, person in enumerate(people) for event in person.events]
    partials = fold(_table(happened), numbered, at=at)
    users = _people(people)
    subjects = _account(subject, users) if accounts else users
    numbers = {one.step.digest: one.number for one in numbered}
    found = answers(plan, numbers, partials, subjects, at)
    counts = {definition.key for definition, root in known if isinstance(root, Reduce) and _counts(root)}
    kinds = {definition.key: definition.kind for definition, _ in known}
    return {
        key: _value(one.values[0].as_py(), audience=kinds[key] == "audience", count=key in counts)
        for key, one in found.items()
    }


def _value(text: str | None, *, audience: bool, count: bool) -> Json:
    """Return a value as the reference gives it; what is nothing has no row in columns."""
    if text is not None:
        value: Json = json.loads(text)
        return value
    if audience:
        return False
    return 0 if count else None


def _counts(root: Reduce) -> bool:
    return root.how == "count" or root.counted


def _table(happened: Sequence[tuple[int, Occurred]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "set_id": _set_id(place),
                "type": "track",
                "event": event.name,
                "timestamp": event.timestamp,
                "source_id": event.source_id,
                "position": event.position.rjust(32, b"\0"),
                "properties": canonical(dict(event.properties)),
                "context": canonical(dict(event.context)),
            }
            for place, event in happened
        ],
        schema=_EVENTS,
    )


def _people(people: Sequence[Subject]) -> Subjects:
    types = sorted({kind for person in people for kind in person.identifier_types})
    return Subjects(
        count=len(people),
        set_keys=np.frombuffer(
            b"".join(_set_id(place) for place in range(len(people))), dtype=np.uint64
        ).reshape(-1, 2),
        set_owner=np.arange(len(people), dtype=np.int64),
        traits=_traits(people),
        identifier_types={
            kind: np.array([kind in person.identifier_types for person in people], dtype=np.bool_)
            for kind in types
        },
    )


def _account(subject: Subject, users: Subjects) -> Subjects:
    return Subjects(
        count=1,
        set_keys=np.zeros((0, 2), dtype=np.uint64),
        set_owner=np.zeros(0, dtype=np.int64),
        traits=_traits([subject]),
        users=users,
        user_accounts=np.array([(0, user) for user in range(users.count)], dtype=np.int64).reshape(-1, 2),
    )


def _traits(of_all: Sequence[Subject]) -> dict[str, pa.Array]:
    keys = sorted({key for one in of_all for key in one.traits})
    return {
        key: pa.array(
            [canonical(one.traits[key]) if one.traits.get(key) is not None else None for one in of_all],
            pa.string(),
        )
        for key in keys
    }


def _set_id(place: int) -> bytes:
    return place.to_bytes(16, "big")
