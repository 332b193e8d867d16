"""Filters on the properties of events: `property.plan=pro`, `property.cart.total[gte]=100`.

A small closed vocabulary. Names and values go into a query as parameters, never as text.
"""

import math
import re
from typing import Any, Final

from profilelake.semantics.times import parse_time
from profilelake.serve._answer import invalid
from profilelake.serve._request import Query

PREFIX: Final = "property."
FILTERS_MAX: Final = 16
"""Filters of one request."""
OPERATORS: Final = ("eq", "lt", "lte", "gt", "gte", "exists")

_COMPARED: Final = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_NAME: Final = re.compile(r"(?P<path>.+?)(?:\[(?P<operator>[a-z]+)\])?", re.DOTALL)
_DOT: Final = re.compile(r"(?<!\\)\.")
_NUMBER: Final = re.compile(r"[+-]?\d{1,308}(\.\d{1,308})?([eE][+-]?\d{1,3})?", re.ASCII)
_NUMERIC: Final = "json_type(properties, ${path}) IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE')"
_AS_NUMBER: Final = "TRY_CAST(json_extract_string(properties, ${path}) AS DOUBLE)"
_AS_TIME: Final = "TRY_CAST(json_extract_string(properties, ${path}) AS TIMESTAMPTZ)"


def conditions(query: Query) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions of a request as SQL over `properties`, and their parameters.

    Raises:
        Refused: a filter cannot be read, or there are too many.
    """
    given = query.beginning(PREFIX)
    if len(given) > FILTERS_MAX:
        raise invalid(f"The query has {len(given)} filters on properties, more than {FILTERS_MAX}.")
    clauses: list[str] = []
    parameters: dict[str, Any] = {}
    for number, (name, value) in enumerate(given):
        match = _NAME.fullmatch(name)
        operator = "eq" if match is None else match["operator"] or "eq"
        if match is None or operator not in OPERATORS:
            raise invalid(
                f"The filter `{PREFIX}{name}` cannot be read; write property.NAME=VALUE or"
                f" property.NAME[OPERATOR]=VALUE, with one of {', '.join(OPERATORS)}."
            )
        path = f"path{number}"
        parameters[path] = _pointer(match["path"])
        clause, values = _condition(operator, name, value, f"value{number}")
        clauses.append(clause.replace("{path}", path))
        parameters |= values
    return clauses, parameters


def _pointer(path: str) -> str:
    """Return the JSON pointer of keys joined by dots; a dot in a key is written `\\.`."""
    keys = (key.replace("\\.", ".") for key in _DOT.split(path))
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def _condition(operator: str, name: str, value: str, place: str) -> tuple[str, dict[str, Any]]:
    number = _number(value)
    if operator == "exists":
        if value not in ("true", "false"):
            raise invalid(f"The filter `{PREFIX}{name}` takes true or false.")
        there = "coalesce(json_type(properties, ${path}) <> 'NULL', false)"
        return (there if value == "true" else f"NOT {there}"), {}
    if operator == "eq":
        same = f"json_extract_string(properties, ${{path}}) = ${place}"
        if number is None:
            return same, {place: value}
        return f"({same} OR ({_NUMERIC} AND {_AS_NUMBER} = ${place}n))", {place: value, f"{place}n": number}
    sign = _COMPARED[operator]
    if number is not None:
        return f"({_NUMERIC} AND {_AS_NUMBER} {sign} ${place})", {place: number}
    time = parse_time(value)
    if time is None:
        raise invalid(f"The filter `{PREFIX}{name}` compares with a number or an ISO 8601 time.")
    as_time = f"json_type(properties, ${{path}}) = 'VARCHAR' AND {_AS_TIME}"
    return f"({as_time} {sign} make_timestamptz(${place}))", {place: time}


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None
