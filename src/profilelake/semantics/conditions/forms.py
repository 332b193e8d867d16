"""The YAML form of a definition, as a person would write it by hand, and back from a tree.

    all:
      - {trait: plan, equals: pro}
      - event: Order Completed
        where: {property: revenue, at_least: 100}
        within: 30 days
        count: {at_least: 2}

Wherever a condition is expected, a text of the language may stand instead. A form says what a text can say, no
more: both lead to the same tree.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias, cast

from profilelake.semantics.conditions import _form_values as form_values
from profilelake.semantics.conditions._form_values import FormError, mapping, member, only
from profilelake.semantics.conditions.bounds import LEVELS_MAX, TEXT_BYTES_MAX, too_much
from profilelake.semantics.conditions.parse import parse, parse_element
from profilelake.semantics.conditions.paths import written_path
from profilelake.semantics.conditions.pointing import ParseError
from profilelake.semantics.conditions.spoken_times import written_duration
from profilelake.semantics.conditions.text import written, written_moment
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    As,
    Between,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Duration,
    Entities,
    Events,
    How,
    Instant,
    Items,
    Not,
    Operand,
    Or,
    Property,
    Reduce,
    Root,
    Scope,
    Session,
    Trait,
    Users,
    Value,
    Window,
    Within,
)
from profilelake.semantics.conditions.vocabulary import COMPARISONS, DATED, LEAST_MAX, SEVERAL, TYPES_OF
from profilelake.semantics.definitions import Json

__all__ = ["FormError", "from_tree", "to_tree"]

JUNCTIONS: Final = ("all", "any", "not", "any_user", "every_user")
SUBJECTS: Final = ("trait", "event", "entity", "property", "parent_property", "context", "value")
REDUCERS: Final = ("count", "sum", "avg", "min", "max", "mode", "first", "last", "unique", "unique_count")
WINDOWS: Final = ("within", "within_parent", "between", "expires_after")
ITEMS: Final = ("any_item", "every_item")
_OF_EVENT: Final = ("event", "where", "exclude_sources", *WINDOWS, *REDUCERS)
_OF_ENTITY: Final = ("entity", "where", *REDUCERS)
_LEVELS_MAX: Final = 2 * LEVELS_MAX
"""Mappings and lists inside of each other; a tree has fewer levels than its form."""

_Form: TypeAlias = Mapping[str, Json]


def from_tree(value: Json) -> Root:
    """Return the tree of a definition in its YAML form.

    Raises:
        FormError: it is none, or larger than a definition may be; the error names the place.
    """
    found = _Reader("event", 0).term(value, "")
    beyond = too_much(found)
    if beyond is not None:
        raise FormError("", beyond[1])
    if len(written(found).encode()) > TEXT_BYTES_MAX:
        raise FormError(
            "", f"the definition is longer than {TEXT_BYTES_MAX:,} bytes as text; split it into several"
        )
    return found


def to_tree(root: Root) -> dict[str, Json]:
    """Return the YAML form of a tree; `from_tree` reads it back to an equal one."""
    match root:
        case And(parts):
            return {"all": [to_tree(part) for part in parts]}
        case Or(parts):
            return {"any": [to_tree(part) for part in parts]}
        case Not(of):
            return {"not": to_tree(of)}
        case Users(of, every):
            return {"every_user" if every else "any_user": to_tree(of)}
        case Items(value, of, every):
            return {**_subject(value), "every_item" if every else "any_item": to_tree(of)}
        case Reduce():
            return _reduction(root, {})
        case Compare(value, how, operands):
            told: dict[str, Json] = {how: _told(how, operands)}
            return _reduction(value, told) if isinstance(value, Reduce) else {**_subject(value), **told}


class _Reader:
    """Reads forms at one level; what is inside is read by another one a level deeper."""

    def __init__(self, scope: Scope, level: int) -> None:
        self._scope: Scope = scope
        self._level = level

    def inside(self, place: str, scope: Scope | None = None) -> "_Reader":
        """Return the reader of what is a level deeper."""
        if self._level >= _LEVELS_MAX:
            raise FormError(
                place, f"there are more than {_LEVELS_MAX} levels; split it into several definitions"
            )
        return _Reader(scope or self._scope, self._level + 1)

    def term(self, value: Json, place: str) -> Root:
        """Read a condition or a reduction."""
        if isinstance(value, str):
            return self._text(value, place)
        form = mapping(value, place)
        junctions = [key for key in JUNCTIONS if key in form]
        if junctions:
            only(form, junctions[:1], place)
            return self._junction(junctions[0], form[junctions[0]], member(place, junctions[0]))
        subject = self._subject_key(form, place)
        if subject in ("event", "entity"):
            return self.reduced(form, subject, place)
        return self._compared(form, subject, place)

    def condition(self, value: Json, place: str) -> Condition:
        """Read what must be a condition."""
        if isinstance(value, list):
            raise FormError(place, "say how these belong together: `all: [...]` or `any: [...]`")
        found = self.term(value, place)
        if isinstance(found, Reduce):
            how = "unique_count" if found.counted else found.how
            raise FormError(
                place, f"this is a value, no condition; compare it, such as `{how}: {{at_least: 1}}`"
            )
        return found

    def _text(self, text: str, place: str) -> Root:
        try:
            return parse_element(text) if self._scope == "item" else parse(text)
        except ParseError as error:
            problem = str(error).removeprefix("reading a condition: ")
            raise FormError(place, f"in this text, {problem}") from error

    def _junction(self, key: str, value: Json, place: str) -> Condition:
        within = self.inside(place)
        if key not in ("all", "any"):
            of = within.condition(value, place)
            return Not(of) if key == "not" else Users(of, key == "every_user")
        if not isinstance(value, list) or not value:
            raise FormError(place, f"write a list of conditions here; found {form_values.told(value)}")
        parts = tuple(within.condition(part, f"{place}[{number}]") for number, part in enumerate(value))
        if len(parts) == 1:
            return parts[0]
        return And(parts) if key == "all" else Or(parts)

    def _subject_key(self, form: _Form, place: str) -> str:
        found = [key for key in SUBJECTS if key in form]
        if len(found) > 1:
            raise FormError(
                place, f"{found[0]} and {found[1]} stand in one mapping; join two by `all: [...]`"
            )
        if not found:
            only(form, (*JUNCTIONS, *SUBJECTS), place)
            raise FormError(
                place, f"write what it is about; known here: {', '.join((*JUNCTIONS, *SUBJECTS))}"
            )
        return found[0]

    # Values and comparisons

    def _compared(self, form: _Form, subject: str, place: str) -> Condition:
        plain = subject == "value"
        only(form, (subject, *COMPARISONS) if plain else (subject, *COMPARISONS, *ITEMS), place)
        value = self._value(form, subject, place)
        parts: list[Condition] = []
        for key in form:
            below = member(place, key)
            if key in ITEMS and isinstance(value, Property | Context | Trait):
                of = self.inside(below, "item").condition(form[key], below)
                parts.append(Items(value, of, key == "every_item"))
            elif key != subject:
                parts.append(self._comparison(value, cast(Comparison, key), form[key], below))
        if not parts:
            hint = "for an audience add `equals: true`, else" if subject == "trait" else "to make a condition"
            raise FormError(
                place, f"this is a value, no condition; {hint} add a comparison or `exists: true`"
            )
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _value(self, form: _Form, subject: str, place: str) -> Value:
        below = member(place, subject)
        said = form[subject]
        match subject:
            case "trait":
                return Trait(form_values.path(said, below))
            case "context":
                return Context(form_values.path(said, below))
            case "property":
                return Property(form_values.path(said, below), self._scope)
            case "parent_property":
                return Property(form_values.path(said, below), "parent")
            case _:
                return form_values.constant(said, below)

    def _comparison(self, value: Value, how: Comparison, said: Json, place: str) -> Compare:
        if how in ("exists", "absent"):
            if not isinstance(said, bool):
                raise FormError(place, f"write true or false; found {form_values.told(said)}")
            other: Comparison = "absent" if how == "exists" else "exists"
            return Compare(value, how if said else other)
        if how in RELATIVE:
            return Compare(_dated(value), how, (form_values.duration(said, place),))
        if how in SEVERAL and isinstance(said, list):
            if not said:
                raise FormError(place, "write at least one value")
            found = [self._operand(one, f"{place}[{number}]") for number, one in enumerate(said)]
            return Compare(value, how, tuple(found))
        operand = self._operand(said, place)
        if how in DATED:
            return Compare(_dated(value), how, (_dated(operand),))
        return Compare(value, how, (operand,))

    def _operand(self, said: Json, place: str) -> Value:
        if not isinstance(said, Mapping):
            return form_values.constant(said, place)
        form = mapping(said, place)
        subject = self._subject_key(form, place)
        if subject not in ("event", "entity"):
            only(form, (subject,), place)
            return self._value(form, subject, place)
        found = self.inside(place).reduced(form, subject, place)
        if not isinstance(found, Reduce):
            raise FormError(place, "a condition cannot be compared with a value; leave out its comparison")
        return found

    # Events and entities

    def reduced(self, form: _Form, subject: str, place: str) -> Root:
        """Read a reduction, or its comparison."""
        only(form, _OF_EVENT if subject == "event" else _OF_ENTITY, place)
        of = self._stream(form, subject, place)
        reducers = [key for key in REDUCERS if key in form]
        if len(reducers) != 1:
            problem = "write how its events become one value, such as `count: {at_least: 1}`"
            if reducers:
                problem = f"{reducers[0]} and {reducers[1]} stand in one mapping; join two by `all: [...]`"
            raise FormError(place, problem)
        key = reducers[0]
        below = member(place, key)
        said = form[key]
        if isinstance(said, str) and key != "count":
            said = {"property": said}
        inner = mapping({} if said is None and key == "count" else said, below)
        reduce = self._reduction(of, key, inner, below)
        parts = [
            self._comparison(reduce, how, inner[how], member(below, how))
            for how in inner
            if how in COMPARISONS
        ]
        if not parts:
            return reduce
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _stream(self, form: _Form, subject: str, place: str) -> Events | Entities:
        below = member(place, "where")
        where = None
        if "where" in form:
            where = self.inside(below, "event").condition(form["where"], below)
        if subject == "entity":
            return Entities(
                form_values.name(form["entity"], member(place, "entity"), "the slug of an entity"), where
            )
        return Events(
            form_values.name(form["event"], member(place, "event"), "the name of an event"),
            where,
            self._excluded(form.get("exclude_sources", []), member(place, "exclude_sources")),
            self._window(form, place),
        )

    def _excluded(self, said: Json, place: str) -> tuple[str, ...]:
        listed = said if isinstance(said, list) else [said]
        what = "the id of a source"
        return tuple(sorted({form_values.name(one, f"{place}[{at}]", what) for at, one in enumerate(listed)}))

    def _window(self, form: _Form, place: str) -> Window | None:
        found = [key for key in WINDOWS if key in form]
        if not found:
            return None
        if len(found) > 1:
            raise FormError(place, f"{found[0]} and {found[1]} are two windows; keep one of them")
        key, below = found[0], member(place, found[0])
        said = form[key]
        if key == "between":
            if not isinstance(said, list) or len(said) != 2:
                raise FormError(
                    below, f"write two amounts of time: [7 days, 10 days]; found {form_values.told(said)}"
                )
            near, far = (form_values.duration(one, f"{below}[{at}]").micros for at, one in enumerate(said))
            return Between(near, far)
        micros = form_values.duration(said, below).micros
        return Session(micros) if key == "expires_after" else Within(micros, key == "within_parent")

    def _reduction(self, of: Events | Entities, key: str, form: _Form, place: str) -> Reduce:
        how = cast(How, "unique" if key == "unique_count" else key)
        if how == "count":
            only(form, COMPARISONS, place)
            return Reduce(of, "count")
        known = ["property", *(["as"] if how in TYPES_OF else []), *(["times"] if how == "mode" else [])]
        only(form, (*known, *COMPARISONS), place)
        if "property" not in form:
            raise FormError(
                place, f"write which property, such as `{key}: price` or `{key}: {{property: price}}`"
            )
        value = Property(form_values.path(form["property"], member(place, "property")))
        least = form_values.whole(form["times"], member(place, "times"), LEAST_MAX) if "times" in form else 1
        as_type = self._as_type(form, how, member(place, "as"))
        return Reduce(of, how, value, as_type, least, key == "unique_count")

    def _as_type(self, form: _Form, how: How, place: str) -> As | None:
        if "as" not in form:
            return None
        for allowed in TYPES_OF[how]:
            if form["as"] == allowed:
                return allowed
        raise FormError(place, f"write {' or '.join(TYPES_OF[how])}; found {form_values.told(form['as'])}")


def _dated(value: Value) -> Value:
    return form_values.moment(value) if isinstance(value, Constant) else value


# From trees


def _subject(value: Value) -> dict[str, Json]:
    match value:
        case Trait(path):
            return {"trait": written_path(path)}
        case Context(path):
            return {"context": written_path(path)}
        case Property(path, scope):
            return {"parent_property" if scope == "parent" else "property": written_path(path)}
        case Constant(said):
            return {"value": said}
        case Instant(at):
            return {"value": written_moment(at)}
        case Reduce():
            return _reduction(value, {})


def _told(how: Comparison, operands: tuple[Operand, ...]) -> Json:
    if how in ("exists", "absent"):
        return True
    found = [_operand(operand) for operand in operands]
    return found if how in SEVERAL else found[0]


def _operand(operand: Operand) -> Json:
    match operand:
        case Constant(said):
            return said
        case Instant(at):
            return written_moment(at)
        case Duration(micros):
            return written_duration(micros)
        case _:
            return _subject(operand)


def _reduction(node: Reduce, compared: dict[str, Json]) -> dict[str, Json]:
    form = _stream_form(node.of)
    key = "unique_count" if node.counted else node.how
    if node.value is None:
        return {**form, key: compared}
    said: dict[str, Json] = {"property": written_path(node.value.path)}
    if node.as_type is not None:
        said["as"] = node.as_type
    if node.least != 1:
        said["times"] = node.least
    plain = len(said) == 1 and not compared
    return {**form, key: said["property"] if plain else {**said, **compared}}


def _stream_form(of: Events | Entities) -> dict[str, Json]:
    where: dict[str, Json] = {} if of.where is None else {"where": to_tree(of.where)}
    if isinstance(of, Entities):
        return {"entity": of.slug, **where}
    form: dict[str, Json] = {"event": of.name, **where}
    if of.excluded:
        form["exclude_sources"] = list(of.excluded)
    match of.window:
        case Within(micros, parent):
            form["within_parent" if parent else "within"] = written_duration(micros)
        case Between(near, far):
            form["between"] = [written_duration(near), written_duration(far)]
        case Session(micros):
            form["expires_after"] = written_duration(micros)
    return form
