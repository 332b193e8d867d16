"""Names in a definition that nobody has ever sent, and the known ones they may have been meant to be."""

import difflib
from collections.abc import Collection, Iterator
from typing import Final

from profilelake.semantics.conditions.findings import Finding, Known
from profilelake.semantics.conditions.paths import written_path
from profilelake.semantics.conditions.tree import (
    Compare,
    Constant,
    Entities,
    Events,
    Node,
    Property,
    Trait,
)

_OF_CALLS: Final = {"Page Viewed": "page_name", "Screen Viewed": "screen_name"}
"""Events that page and screen calls are, and the property that has the name of the call."""
_TRUTHS: Final = ("true", "false", True, False)
_COMPARED_MAX: Final = 20_000
"""Known names that a name is compared with to find the nearest."""


def of_events(node: Events, known: Known) -> Iterator[Finding]:
    """Yield what is to say of the name of an event and of the sources that are left out."""
    if known.events is not None and node.name not in known.events and node.name not in _OF_CALLS:
        yield _unknown(node, "event", node.name, known.events)
    if known.sources is not None:
        for source in node.excluded:
            if source not in known.sources:
                yield _unknown(node, "source", source, known.sources)


def of_entity(node: Entities, known: Known) -> Iterator[Finding]:
    """Yield an error where there is no such entity."""
    if node.slug not in known.entities:
        near = _nearest(node.slug, known.entities) if known.entities else "; no entities are defined"
        yield Finding("error", "unknown_entity", f"there is no entity '{node.slug}'{near}", node.span)


def of_trait(node: Trait, known: Known) -> Iterator[Finding]:
    """Yield a warning where nobody has such a trait."""
    name = node.path[0]
    if known.traits is not None and name not in known.traits and name not in known.definitions:
        yield _unknown(node, "trait", name, {*known.traits, *known.definitions})


def of_property(node: Property, known: Known, of: Events | Entities) -> Iterator[Finding]:
    """Yield a warning where no event of the name, or no row of the entity, has such a property."""
    if isinstance(of, Entities):
        seen, whose = known.entities.get(of.slug, ()), f"a row of {of.slug}"
    else:
        seen, whose = (known.events or {}).get(of.name, ()), of.name
        if node.path == (_OF_CALLS.get(of.name),):
            return
    shown = written_path(node.path)
    if seen and node.path[0] not in seen and shown not in seen:
        yield _unknown(node, "property", shown, seen, f" of {whose}")


def of_audience(node: Compare, known: Known) -> Iterator[Finding]:
    """Yield what is to say of asking an audience for anything but true or false."""
    if not isinstance(node.value, Trait) or not known.definitions.get(node.value.path[0], "").endswith(
        "audience"
    ):
        return
    name = node.value.path[0]
    if node.how in ("exists", "absent"):
        message = f"'{name}' is an audience, which is true or false and never missing; compare it: = true"
        yield Finding("warning", "audience", message, node.span)
    for operand in node.operands:
        if isinstance(operand, Constant) and operand.value not in _TRUTHS:
            message = f"'{name}' is an audience, which is true or false; compare it with = true or = false"
            yield Finding("error", "audience", message, node.span)
            return


def _unknown(node: Node, what: str, name: str, known: Collection[str], of: str = "") -> Finding:
    message = f"no {what} '{name}'{of} has been seen yet{_nearest(name, known)}"
    return Finding("warning", f"unknown_{what}", message, node.span)


def _nearest(name: str, known: Collection[str]) -> str:
    names = sorted(known)[:_COMPARED_MAX]
    # The case of letters is what people get wrong most often, and difflib does not see past it.
    by_folded = {other.casefold(): other for other in names}
    near = by_folded.get(name.casefold()) or next(iter(difflib.get_close_matches(name, names, 1)), None)
    return "" if near is None else f"; did you mean '{near}'?"
