"""Definitions as a person reads them: as an entry of a file would say them."""

import difflib

import yaml

from profilelake.semantics.definitions import EXTERNAL_IDS, SQL_KINDS, Definition, is_audience


def as_entry(definition: Definition) -> str:
    """Return a definition as the entry of a file that says it."""
    sql = definition.kind in SQL_KINDS
    said: dict[str, object] = {}
    for name in ("name", "description"):
        if getattr(definition, name):
            said[name] = getattr(definition, name)
    if definition.target != "users":
        said["target"] = definition.target
    if not definition.enabled:
        said["enabled"] = False
    if (
        is_audience(definition.kind)
        and definition.target == "users"
        and definition.external_ids != EXTERNAL_IDS
    ):
        said["external_ids"] = list(definition.external_ids) or "none"
    if not definition.historical:
        said["historical"] = False
    if sql:
        said |= {"id": definition.id_type, "every": _every(definition.every_seconds)}
    head = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=1_000_000) if said else ""
    text = "".join(f"  {line}\n" for line in definition.query.splitlines())
    return f"{head}{'sql' if sql else 'query'}: |\n{text}"


def differences(before: Definition | None, after: Definition | None) -> list[str]:
    """Return the lines that differ, with `-` those of before and with `+` those of after."""
    old, new = ([] if one is None else _lines(one) for one in (before, after))
    return [line for line in difflib.ndiff(old, new) if line[:1] in "+-"]


def _lines(definition: Definition) -> list[str]:
    managed = f"# managed by {definition.managed_by}\n" if definition.managed_by else ""
    return f"{managed}{as_entry(definition)}".splitlines()


def _every(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds and seconds % length == 0:
            count = seconds // length
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} seconds"
