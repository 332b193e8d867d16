"""Why a profile is in an audience or not, or how a computed trait comes by its value: now, or as of a time."""

from typing import Any

from profilelake.semantics.conditions.evaluate import reachable, since
from profilelake.semantics.conditions.explain import document, explain
from profilelake.semantics.conditions.text import written
from profilelake.serve._answer import Refused, invalid, time_text
from profilelake.serve._past import Past
from profilelake.serve._profile import Found
from profilelake.serve.as_of import FoundThen
from profilelake.serve.lived import Lives, held_at, needed
from profilelake.traits.steps import planned


def explained(found: Found, key: str, at: int, past: Past, *, rules_now: bool = True) -> dict[str, Any]:
    """Return a definition's answer for a profile at a time (microseconds), and each of its conditions.

    The facts are read anew and judged by the plain reference; `announced` is what live computing says now, so
    that both can be compared. With `rules_now` the definition of today is explained, else the one of then.

    Raises:
        Refused: there is no such definition, or it is none that conditions make.
        Invalid: too much has to be looked through.
    """
    held = held_at(found.tx, found.space, None if rules_now else at)
    mine = held.get(key)
    if mine is None:
        raise Refused(404, "not_found", "Definition was not found.")
    definition = mine.definition
    if definition.kind.startswith("sql_"):
        raise invalid("This definition is a query: what it returned last is all there is to tell.")
    if definition.target != found.collection:
        raise invalid(
            f"This definition is about {definition.target}, the profile is one of {found.collection}."
        )
    if isinstance(found, FoundThen) and found.collection == "accounts":
        raise invalid("Definitions about accounts are explained as they are now, without `as_of`.")
    plan = needed(planned(dict(held)), key)
    subject = Lives(past, at, plan).subject(found)
    (one,) = (one for one in plan if one.held.definition.key == key)
    value = subject.traits[key]
    if not definition.historical:
        subject = since(subject, mine.created)
    shown: dict[str, Any] = {
        "definition": key,
        "kind": definition.kind,
        "version": mine.version,
        "query": written(one.root),
        "profile_id": found.segment_id,
        "at": time_text(at),
        "value": value,
        "has_external_id": reachable(definition, subject),
        "explanation": document(explain(one.root, subject, at)),
    }
    if not isinstance(found, FoundThen):
        given = found.computed().get(key)
        shown["announced"] = (
            None if given is None else {"value": given.value, "since": time_text(given.since)}
        )
    return shown
