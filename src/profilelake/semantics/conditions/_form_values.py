"""The small parts of the YAML form: names, paths, amounts of time, constants, and errors that name their place."""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from typing import Final

from profilelake.errors import Invalid
from profilelake.semantics.conditions._lexer import NUMBER_MAX
from profilelake.semantics.conditions.paths import KEYS_MAX, keys
from profilelake.semantics.conditions.spoken_times import DURATION_MAX, UNITS, unit_micros
from profilelake.semantics.conditions.tree import Constant, Duration, Instant, Path
from profilelake.semantics.conditions.values import instant
from profilelake.semantics.definitions import Json

_DURATION: Final = re.compile(r"([0-9]{1,18}) *([a-z]+)", re.IGNORECASE)
_SHOWN_CHARACTERS_MAX: Final = 60


class FormError(Invalid):
    """A YAML form that is no definition. `place` leads to what is wrong, such as `all[1].count`."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"reading a condition: {place or 'the definition'}: {problem}")
        self.place = place
        self.problem = problem


def member(place: str, key: str) -> str:
    """Return the place of a member of a mapping."""
    return f"{place}.{key}" if place else key


def mapping(value: Json, place: str) -> Mapping[str, Json]:
    """Return a value that must be a mapping with texts as keys."""
    if not isinstance(value, Mapping):
        raise FormError(place, f"write a mapping here, such as `trait: plan`; found {told(value)}")
    for key in value:
        if not isinstance(key, str):
            raise FormError(place, f"a key must be a text; put {key!r} in quotes")
    return value


def only(value: Mapping[str, Json], known: Collection[str], place: str) -> None:
    """Refuse a key that is not known here."""
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key[:_SHOWN_CHARACTERS_MAX], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            raise FormError(member(place, key[:_SHOWN_CHARACTERS_MAX]), f"unknown key; {hint}")


def name(value: Json, place: str, what: str) -> str:
    """Return a value that must be a text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise FormError(place, f"write {what} in quotes; found {told(value)}")
    return _storable(value, place)


def path(value: Json, place: str) -> Path:
    """Return a value that must be a path."""
    found = keys(name(value, place, "a path, such as plan or address.city,"))
    if found is None:
        raise FormError(
            place, f"a path has 1 to {KEYS_MAX} keys with single dots between, none of them empty"
        )
    return found


def duration(value: Json, place: str) -> Duration:
    """Return a value that must be an amount of time."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = unit_micros(match.group(2)) if match else None
    if match is None or unit is None:
        raise FormError(place, f"write an amount of time, such as 7 days or 1 hour; found {told(value)}")
    micros = int(match.group(1)) * unit
    if micros > DURATION_MAX:
        raise FormError(place, f"an amount of time is at most {DURATION_MAX // UNITS['day']:,} days")
    return Duration(micros, match.group())


def constant(value: Json, place: str) -> Constant:
    """Return a value that must be a scalar."""
    if isinstance(value, bool):
        return Constant(value)
    if isinstance(value, str):
        return Constant(_storable(value, place))
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) <= NUMBER_MAX:
            return Constant(value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise FormError(place, "this number is greater than any that can be compared")
        return Constant(number)
    if value is None:
        raise FormError(place, "nothing equals null; ask with `exists: true` or `absent: true`")
    raise FormError(place, f"write one value here; found {told(value)}")


def moment(found: Constant) -> Constant | Instant:
    """Return a constant as a moment where it is the text of one."""
    at = instant(found.value) if isinstance(found.value, str) else None
    return found if at is None else Instant(at, str(found.value))


def whole(value: Json, place: str, most: int) -> int:
    """Return a value that must be a whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise FormError(place, f"write a whole number up to {most:,}; found {told(value)}")
    return value


def told(value: Json) -> str:
    """Return a value as errors name it: short."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a very great number"
    said = repr(value)
    return said if len(said) <= _SHOWN_CHARACTERS_MAX else f"{said[:_SHOWN_CHARACTERS_MAX]}…"


def _storable(text: str, place: str) -> str:
    for character in text:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise FormError(
                place, f"the character U+{ord(character):04X} cannot stand in a definition; remove it"
            )
    return text
