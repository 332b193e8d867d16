"""How what was found differs from what should be there, in words for a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DIFFERENCES_MAX: Final = 20
"""Examples named per kind of difference; the count is always whole."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not what the facts say."""

    what: str
    detail: str


def compare_rows(what: str, found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> list[Difference]:
    """Return where rows, by key, are not those that should be there."""
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    differing += [key for key in found if key not in wanted]
    if not differing:
        return []
    shown = [
        f"{_name(key)}: is {_short(found.get(key))}, should be {_short(wanted.get(key))}"
        for key in differing[:DIFFERENCES_MAX]
    ]
    return [Difference(what, f"{len(differing)} rows differ; {line}") for line in shown]


def _name(key: object) -> str:
    return key.hex() if isinstance(key, bytes) else str(key)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else text[:399] + "…"
