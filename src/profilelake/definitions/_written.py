"""Identity rules as the text a person would write."""

from collections.abc import Mapping
from typing import Any, Final

import yaml

from profilelake.errors import Invalid
from profilelake.semantics.rules import IdentityRules, TypeRule

_DAY_SECONDS: Final = 86_400
_NAMES: Final = {1: "day", 7: "week", 30: "month", 365: "year"}
_DEFAULT_COLLECTION: Final = {"group_id": "accounts"}
_WIDTH: Final = 1_000_000


def dump(rules: IdentityRules) -> str:
    """Return rules as a file that says all of them: read again, it gives the same rules.

    Raises:
        Invalid: a file cannot say them: a type in both collections, or a window not of whole days.
    """
    ordered = sorted(rules.types, key=lambda rule: (rule.collection != "users", rule.priority, rule.type))
    names = [rule.type for rule in ordered]
    if len(set(names)) < len(names):
        raise Invalid("writing identity rules: a type is in both collections; name one of them otherwise")
    values = frozenset[str]().union(*(rule.blocked_exact for rule in ordered))
    patterns = [pattern for rule in ordered[:1] for pattern in rule.blocked_patterns]
    for rule in ordered:
        values &= rule.blocked_exact
        patterns = [pattern for pattern in patterns if pattern in rule.blocked_patterns]
    lines = [
        "defaults: none",
        f"demotion: {rules.demotion}",
        f"caps: {_flow({'identifiers': _or_none(rules.identifiers_max), 'merges': _or_none(rules.merges_max)})}",
        f"quarantine: {_flow({'degree': _or_none(rules.degree_max)})}",
        f"alias: {_flow({'sources': sorted(rules.alias_sources)})}",
        "",
        "# What links nobody, for all types.",
        "blocked:",
        f"  values: {_flow(sorted(values))}",
        f"  patterns: {_flow(patterns)}",
        "",
        "# The strongest first.",
        "priority:",
        *(f"  - {_scalar(name)}" for name in names),
        "",
        "types:",
    ]
    for rule in ordered:
        lines.append(f"  {_scalar(rule.type)}:")
        lines += [f"    {key}: {_flow(value)}" for key, value in _said(rule, values, patterns).items()]
    return "\n".join(lines) + "\n"


def _said(rule: TypeRule, values: frozenset[str], patterns: list[str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if rule.collection != _DEFAULT_COLLECTION.get(rule.type, "users"):
        said["collection"] = rule.collection
    said["limit"] = _limit(rule)
    if rule.custom:
        said["custom"] = True
    if rule.paths:
        said["paths"] = list(rule.paths)
    if rule.normaliser is not None:
        said["normaliser"] = rule.normaliser
    more = {
        "values": sorted(rule.blocked_exact - values),
        "patterns": [pattern for pattern in rule.blocked_patterns if pattern not in patterns],
    }
    if any(more.values()):
        said["blocked"] = {name: texts for name, texts in more.items() if texts}
    return said


def _limit(rule: TypeRule) -> Any:
    if rule.window_seconds is None:
        return _or_none(rule.limit)
    days, rest = divmod(rule.window_seconds, _DAY_SECONDS)
    if rest:
        raise Invalid(
            f"writing identity rules: {rule.type} has a window of {rule.window_seconds} s; a file has whole days"
        )
    return {"values": _or_none(rule.limit), "per": _NAMES.get(days, f"{days} days")}


def _or_none(number: int | None) -> int | str:
    return "none" if number is None else number


def _flow(value: Mapping[str, Any] | list[str] | object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=_WIDTH)
    return text.removesuffix("...\n").rstrip("\n")


def _scalar(text: str) -> str:
    return _flow(text)
