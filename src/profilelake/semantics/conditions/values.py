"""JSON values as conditions see them: what is a number, a text, a moment, an item, and which are equal.

Missing and null are the same thing everywhere and are written `None`. Nothing here fails: a value that is not
of the kind asked for has none.
"""

import json
import re
from math import floor, isfinite
from typing import Final, TypeAlias

from profilelake.semantics.conditions.tree import Path
from profilelake.semantics.definitions import Json
from profilelake.semantics.times import parse_time

Scalar: TypeAlias = "bool | int | float | str"

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)
WHOLE_MAX: Final = 2**53
"""From here on floats skip whole numbers, so a number is not written as one."""
SUMMED_MAX: Final = 2**53
"""Numbers beyond this, either way, are left out of sums and averages."""
SUM_MAX: Final = 2**62
"""A sum whose whole part is beyond this, either way, has no value."""
NANO: Final = 10**9
CHARACTERS_AT_ONCE: Final = 100
"""Characters of a text that count as one value where it is told how much there is to look at."""


def found(path: Path, value: Json) -> Json:
    """Return what lies at a path.

    At an array the walk goes on in every element, and the answer is the list of what was found there; lists
    found in elements are joined to one. No key at all means the value itself. Nulls found in elements are not
    found, and where nothing is, the answer is missing; an empty list in an element is something.
    """
    if not path:
        return value
    if isinstance(value, dict):
        return found(path[1:], value.get(path[0]))
    if not isinstance(value, list):
        return None
    results = [result for item in value if (result := found(path, item)) is not None]
    if not results:
        return None
    joined: list[Json] = []
    for result in results:
        if isinstance(result, list):
            joined.extend(result)
        else:
            joined.append(result)
    return joined


def is_number(value: Json) -> bool:
    """Tell whether a value is a JSON number (truth values are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Json) -> float | None:
    """Return the number of a JSON number or of a text that is wholly one; there are no infinite ones."""
    try:
        if is_number(value):
            result = float(value)  # type: ignore[arg-type]
        elif isinstance(value, str) and _NUMBER.fullmatch(value):
            result = float(value)
        else:
            return None
    except OverflowError:
        return None
    return result if isfinite(result) else None


def plain(value: float) -> int | float:
    """Return a number as it is given back: a JSON integer where it is a whole one below 2**53."""
    return int(value) if value.is_integer() and abs(value) < WHOLE_MAX else value


def normal(value: Json) -> Json:
    """Return a value with every number in it as it is given back."""
    if is_number(value):
        numeric = number(value)
        return None if numeric is None else plain(numeric)
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    return value


def text(value: Json) -> str | None:
    """Return the text of a scalar. Objects and arrays have none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    numeric = number(value)
    return None if numeric is None else repr(plain(numeric))


def canonical(value: Json) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, nothing escaped that need not be."""
    return json.dumps(
        normal(value), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )


def equal(one: Json, other: Json) -> bool:
    """Tell whether two scalars are the same: as numbers if either is a JSON number, as texts otherwise.

    So `"10"` equals `10`, and `true` equals `"true"`; missing values, objects and arrays equal nothing.
    """
    if is_number(one) or is_number(other):
        a, b = number(one), number(other)
        return a is not None and a == b
    written = text(one)
    return written is not None and written == text(other)


def instant(value: Json) -> int | None:
    """Return the moment a text names: ISO 8601 with a zone, or a date, which begins at midnight UTC.

    A time without a zone is no moment: nobody can say which one it means.
    """
    if not isinstance(value, str) or _INSTANT.fullmatch(value) is None:
        return None
    return parse_time(value)


def items(value: Json) -> list[Scalar]:
    """Return the scalars a value consists of: the elements of an array, or the value itself."""
    return [item for item in (value if isinstance(value, list) else [value]) if _is_scalar(item)]  # type: ignore[misc]


def amount(value: Json) -> int:
    """Return how much there is to look at in a value: an element of an array, or 100 characters, counts as one.

    Nothing and a number that cannot be are none, but one each as elements.
    """
    if isinstance(value, list | dict):
        return sum(max(amount(part), 1) for part in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return 1 + len(value) // CHARACTERS_AT_ONCE
    return int(_is_scalar(value))


def _is_scalar(value: Json) -> bool:
    return isinstance(value, bool | str) or number(value) is not None


class ExactSum:
    """A sum that does not depend on the order of what is added, exact to the billionth.

    Each number is taken apart into a whole part and billionths (rounded half to even), and both are added as
    integers.
    """

    def __init__(self) -> None:
        self.numbers = 0
        self._whole = 0
        self._nano = 0

    def add(self, value: float) -> None:
        """Add a number; one beyond `SUMMED_MAX` is left out."""
        if abs(value) > SUMMED_MAX:
            return
        whole = floor(value)
        self.numbers += 1
        self._whole += whole
        self._nano += round((value - whole) * 1e9)

    def total(self) -> int | float | None:
        """Return the sum as the nearest float, or none where nothing was added or it is out of range."""
        return self._shared_by(1)

    def average(self) -> int | float | None:
        """Return the sum divided by the number of numbers, rounded once."""
        return self._shared_by(self.numbers)

    def _shared_by(self, share: int) -> int | float | None:
        if not self.numbers or abs(self._whole) > SUM_MAX:
            return None
        return plain((self._whole * NANO + self._nano) / (NANO * share))
