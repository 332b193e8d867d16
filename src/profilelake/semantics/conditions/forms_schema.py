"""The JSON Schema of the YAML form of a definition, for editors and for programs that write definitions.

It says the shape: keys, what stands beside what, types. What `check` says of a definition it does not say.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from profilelake.semantics.conditions.forms import ITEMS, JUNCTIONS, REDUCERS, WINDOWS
from profilelake.semantics.conditions.spoken_times import UNITS
from profilelake.semantics.conditions.tree import RELATIVE
from profilelake.semantics.conditions.vocabulary import COMPARISONS, LEAST_MAX, SEVERAL, TYPES_OF

Schema: TypeAlias = dict[str, Any]

CONDITION: Final[Schema] = {"$ref": "#/$defs/condition"}
"""What an audience is; the schema it stands in has `definitions()` in its `$defs`."""
REDUCTION: Final[Schema] = {"$ref": "#/$defs/reduction"}
"""What a computed trait is, likewise."""

_TEXT: Final[Schema] = {"type": "string", "description": "A text of the language."}
_NAME: Final[Schema] = {"type": "string", "pattern": r"\S"}
_PATH: Final[Schema] = {"$ref": "#/$defs/path"}
_DURATION: Final[Schema] = {"$ref": "#/$defs/duration"}
_OPERAND: Final[Schema] = {"$ref": "#/$defs/operand"}
_REFERENCES: Final = ("trait", "property", "parent_property", "context")


def schema() -> Schema:
    """Return the schema of one definition: a condition or a reduction."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A condition or a reduction of profilelake",
        "anyOf": [CONDITION, REDUCTION],
        "$defs": definitions(),
    }


def definitions() -> Schema:
    """Return the named parts, for the `$defs` of a schema in which a condition or reduction stands."""
    units = "|".join(UNITS)
    return {
        "path": {
            "description": "Keys with dots between, such as address.city; a dot in a key is written \\.",
            "type": "string",
            "minLength": 1,
        },
        "duration": {
            "description": "An amount of time, such as 7 days.",
            "type": "string",
            "pattern": rf"^\s*[0-9]{{1,18}} *({_in_any_case(units)})[sS]?\s*$",
        },
        "scalar": {"type": ["string", "number", "boolean"]},
        "operand": {
            "description": "What a value is compared with: a constant, or a trait, property or reduction.",
            "anyOf": [
                {"$ref": "#/$defs/scalar"},
                *(_object({name: _PATH}, required=[name]) for name in _REFERENCES),
                _object({"value": {"$ref": "#/$defs/scalar"}}, required=["value"]),
                *_streams(compared=False),
            ],
        },
        "comparisons": {"anyOf": [{"required": [how]} for how in COMPARISONS]},
        "condition": {
            "description": "A condition: a mapping that begins with what it is about, or a text of the language.",
            "anyOf": [_TEXT, *_junctions(), *_values(), *_streams(compared=True)],
        },
        "reduction": {
            "description": "One value of many events: an event with a reducer, or a text of the language.",
            "anyOf": [_TEXT, *_streams(compared=False)],
        },
    }


def _in_any_case(units: str) -> str:
    """Return a pattern that takes letters of either case: JSON Schema has no flag for it."""
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in units)


def _object(members: Schema, *, required: Iterable[str], **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": members,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def _junctions() -> list[Schema]:
    listed: Schema = {"type": "array", "items": CONDITION, "minItems": 1}
    return [
        _object({name: listed if name in ("all", "any") else CONDITION}, required=[name])
        for name in JUNCTIONS
    ]


def _values() -> list[Schema]:
    """Return the conditions on a trait, a property, a value of the context, or a constant."""
    items: Schema = dict.fromkeys(ITEMS, CONDITION)
    found = [
        _object({name: _PATH, **_comparisons(), **items}, required=[name], minProperties=2)
        for name in _REFERENCES
    ]
    constant: Schema = {"value": {"$ref": "#/$defs/scalar"}, **_comparisons()}
    return [*found, _object(constant, required=["value"], minProperties=2)]


def _comparisons() -> Schema:
    return {how: _comparison(how) for how in COMPARISONS}


def _comparison(how: str) -> Schema:
    if how in ("exists", "absent"):
        return {"type": "boolean"}
    if how in RELATIVE:
        return _DURATION
    if how in SEVERAL:
        return {"anyOf": [_OPERAND, {"type": "array", "items": _OPERAND, "minItems": 1}]}
    return _OPERAND


def _streams(*, compared: bool) -> list[Schema]:
    """Return events and entities with a reducer, and with or without a comparison of what it is worth."""
    reducers = {key: _reducer(key, compared=compared) for key in REDUCERS}
    one: Schema = {"oneOf": [{"required": [key]} for key in REDUCERS]}
    sources: Schema = {"anyOf": [_NAME, {"type": "array", "items": _NAME}]}
    event: Schema = {
        "event": _NAME,
        "where": CONDITION,
        "exclude_sources": sources,
        **{key: _DURATION for key in WINDOWS if key != "between"},
        "between": {"type": "array", "items": _DURATION, "minItems": 2, "maxItems": 2},
        **reducers,
    }
    alone: Schema = {
        key: {"properties": {other: False for other in WINDOWS if other != key}} for key in WINDOWS
    }
    entity: Schema = {"entity": _NAME, "where": CONDITION, **reducers}
    return [
        _object(event, required=["event"], dependentSchemas=alone, **one),
        _object(entity, required=["entity"], **one),
    ]


def _reducer(key: str, *, compared: bool) -> Schema:
    members: Schema = _comparisons() if compared else {}
    more: Schema = {"$ref": "#/$defs/comparisons"} if compared else {}
    if key == "count":
        counted = _object(members, required=[], **more)
        return counted if compared else {"anyOf": [counted, {"type": "null"}]}
    members = {"property": _PATH, **members}
    for how, types in TYPES_OF.items():
        if how == key:
            members["as"] = {"enum": list(types)}
    if key == "mode":
        members["times"] = {"type": "integer", "minimum": 0, "maximum": LEAST_MAX}
    reduced = _object(members, required=["property"], **more)
    return reduced if compared else {"anyOf": [_PATH, reduced]}
