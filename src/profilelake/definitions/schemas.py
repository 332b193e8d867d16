"""JSON Schemas of the files of computed traits and audiences, for editors and for tools that write such files.

They say the shape. Whether a query can be read, and whether definitions fit together, `validate` says.
"""

from typing import Any, Final, Literal, TypeAlias

from profilelake.definitions._cases import CASES_MAX, EVENTS_MAX, USERS_MAX
from profilelake.definitions._entries import (
    DESCRIPTION_CHARACTERS_MAX,
    DESTINATIONS_MAX,
    EXTERNAL_IDS_MAX,
    NAME_CHARACTERS_MAX,
    SQL_CHARACTERS_MAX,
    TREES,
)
from profilelake.semantics.definitions import KEY_CHARACTERS_MAX

Schema: TypeAlias = dict[str, Any]
Section: TypeAlias = Literal["traits", "audiences", "entities"]
SECTIONS: Final[tuple[Section, ...]] = ("traits", "audiences", "entities")

_TIME: Final[Schema] = {"type": "string", "description": "A time such as 2026-02-15T00:00:00Z."}
_SUBJECT: Final[Schema] = {
    "identifiers": {
        "description": "Types of the identifiers there are; user_id if left out.",
        "type": "array",
        "items": {"type": "string"},
    },
    "traits": {"type": "object"},
    "events": {
        "type": "array",
        "maxItems": EVENTS_MAX,
        "items": {
            "type": "object",
            "required": ["at", "event"],
            "additionalProperties": False,
            "properties": {
                "at": _TIME,
                "event": {"type": "string"},
                "properties": {"type": "object"},
                "context": {"type": "object"},
                "source": {"type": "string", "description": "Id of its source."},
            },
        },
    },
}


def schema(section: Section) -> Schema:
    """Return the schema of `definitions/<section>.yaml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"profilelake {section}",
        **({"$defs": {"relationship": _relationship()}} if section == "entities" else {}),
        "type": "object",
        "additionalProperties": False,
        "properties": {
            section: {
                "description": "Definitions by key.",
                "type": "object",
                "propertyNames": {"pattern": r"^[A-Za-z0-9_.-]+$", "maxLength": KEY_CHARACTERS_MAX},
                "additionalProperties": _entry(section),
            },
            "tests": _tests(),
            **(_graph() if section == "entities" else {}),
        },
    }


def _entry(section: Section) -> Schema:
    tree = TREES.get(section)
    members: Schema = {
        "name": {"type": "string", "maxLength": NAME_CHARACTERS_MAX},
        "description": {"type": "string", "maxLength": DESCRIPTION_CHARACTERS_MAX},
        "enabled": {"type": "boolean", "default": True},
        "target": {"enum": ["users", "accounts"], "default": "users"},
        "sql": {
            "type": "string",
            "maxLength": SQL_CHARACTERS_MAX,
            "description": "A SELECT that runs on a schedule.",
        },
        "id": {"type": "string", "description": "Of SQL: the column of identifiers, and their type."},
        "every": {
            "type": "string",
            "pattern": r"^[1-9][0-9]{0,4} (minute|hour|day)s?$",
            "default": "12 hours",
            "description": "Of SQL: how often it runs.",
        },
        "destinations": {"type": "array", "maxItems": DESTINATIONS_MAX, "items": {"type": "string"}},
    }
    if tree is not None:
        members |= {
            "query": {"type": "string", "description": "The definition as text."},
            tree: {"description": "The definition as a tree; the same as `query` in other words."},
            "historical": {
                "type": "boolean",
                "default": True,
                "description": "Whether events from before the definition count.",
            },
        }
    if section == "audiences":
        members["external_ids"] = {
            "description": "A member has an identifier of one of these types.",
            "oneOf": [
                {"const": "none"},
                {"type": "array", "maxItems": EXTERNAL_IDS_MAX, "items": {"type": "string"}},
            ],
        }
    if section == "entities":
        members |= {
            "table_ref": {
                "type": "string",
                "description": "A linked table: orders; or schema.table. Rows are reached by relationships.",
            },
            "primary_key": {"type": "string"},
            "enrichment_enabled": {"type": "boolean"},
        }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": members,
        "oneOf": [{"required": [name]} for name in ("query", tree, "sql", "table_ref") if name in members],
        "dependentRequired": {
            "sql": ["id"],
            "id": ["sql"],
            **({} if section == "entities" else {"every": ["sql"]}),
        },
    }


def _graph() -> Schema:
    """Return the members of a file of entities that say how profiles are linked with tables."""
    text: Schema = {"type": "string"}
    below: Schema = {"type": "object", "additionalProperties": {"$ref": "#/$defs/relationship"}}
    return {
        "data_graph": _closed({"version": text}),
        "profile": _closed({"relationships": below, "profile_folder": text, "type": text}),
    }


def _relationship() -> Schema:
    text: Schema = {"type": "string"}
    below: Schema = {"type": "object", "additionalProperties": {"$ref": "#/$defs/relationship"}}
    ways: Schema = {
        "external_id": _closed({"type": text, "join_key": text}),
        "trait": _closed({"name": text, "join_key": text}),
        "join_on": {"type": "string", "description": "Columns that are equal: account.id = cart.account_id."},
        "junction_table": _closed(
            {"table_ref": text, "primary_key": text, "left_join_on": text, "right_join_on": text}
        ),
    }
    return {
        **_closed(
            {"related_entity": text, "name": text, "description": text, **ways, "relationships": below}
        ),
        "required": ["related_entity"],
        "oneOf": [{"required": [name]} for name in ways],
    }


def _tests() -> Schema:
    people = {"type": "array", "maxItems": USERS_MAX, "items": _closed(_SUBJECT)}
    return {
        "type": "array",
        "maxItems": CASES_MAX,
        "items": {
            "type": "object",
            "required": ["expect"],
            "additionalProperties": False,
            "properties": {
                "about": {"type": "string"},
                "at": _TIME,
                "given": _closed(_SUBJECT | {"users": people}),
                "expect": {
                    "description": "Values by key at a time, or a list of them with `at`.",
                    "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
                },
            },
        },
    }


def _closed(members: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": members}
