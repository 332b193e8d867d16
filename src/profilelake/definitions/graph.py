"""The data graph of `definitions/entities.yaml`: how profiles are linked with tables, as queries.

As in Segment's data graph a table is reached by an identifier, by a trait, or through another entity.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from profilelake.definitions._yaml import Document, Value

LINK: Final = "external_id"
"""Column of the query that has the ids; no column of the tables may be called so."""
LEVELS_MAX: Final = 6
"""Relationships between a profile and an entity."""
_RELATION: Final = (
    "related_entity",
    "name",
    "description",
    "external_id",
    "trait",
    "join_on",
    "junction_table",
    "relationships",
)
_WAYS: Final = ("external_id", "trait", "join_on", "junction_table")
_SIDE: Final = r"(?:([A-Za-z0-9_-]+)\.)?([A-Za-z_][A-Za-z0-9_]*)"
_EQUATION: Final = re.compile(rf"\s*{_SIDE}\s*=\s*{_SIDE}\s*")


@dataclass(frozen=True, slots=True)
class Linked:
    """A table that profiles are linked with: a query of its rows, each with an id of a type."""

    query: str
    id_type: str


def linked(
    document: Document, entities: Mapping[str, Value], profile: Value | None, workspace: str
) -> dict[str, Linked]:
    """Return the entities that have a `table_ref`, by slug, as the relationships below `profile` lead to them.

    What is wrong is noted in the document; what is returned is good only where nothing is.
    """
    reader = _Reader(document, workspace)
    return reader.read(entities, profile)


@dataclass(slots=True)
class _Entity:
    value: Value
    table: str
    id_type: str = ""
    reached: list[str] = field(default_factory=list)
    """A SELECT for each way from profiles to it."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How one entity is reached: the id, and the tables up to its own, of which it is the last."""

    id_type: str
    id: str
    tables: str
    alias: str
    slug: str


class _Reader:
    """Reads one document; whatever is wrong is noted there, and reading goes on."""

    def __init__(self, document: Document, workspace: str) -> None:
        self._document = document
        self._refuse = document.refuse
        self._workspace = workspace
        self._entities: dict[str, _Entity] = {}
        self._aliases = 0

    def read(self, entities: Mapping[str, Value], profile: Value | None) -> dict[str, Linked]:
        for slug, value in entities.items():
            given = self._document.entries(value)
            if "table_ref" in given:
                self._entities[slug] = _Entity(value, self._table(given["table_ref"]))
        if profile is not None:
            known = self._document.entries(profile, ("relationships", "profile_folder", "type"))
            for _, value in self._relations(known):
                self._first(value)
        for one in self._entities.values():
            if not one.reached:
                message = "no relationship leads to it; add one under profile.relationships"
                self._refuse(one.value, message, named=False)
        return {
            slug: Linked("\nUNION ALL BY NAME\n".join(one.reached), one.id_type)
            for slug, one in self._entities.items()
        }

    # ---- relationships -----------------------------------------------------------------------

    def _relations(self, given: dict[str, Value]) -> Iterator[tuple[str, Value]]:
        if "relationships" in given:
            yield from self._document.entries(given["relationships"]).items()

    def _first(self, value: Value) -> None:
        """Follow a relationship that begins at profiles."""
        given = self._relation(value, ("external_id", "trait"))
        entity = self._related(given, value)
        if entity is None:
            return
        slug, one = entity
        alias = self._alias()
        if "external_id" in given:
            said = self._document.entries(given["external_id"], ("type", "join_key"))
            id_type, key = self._text(said, "type"), self._text(said, "join_key")
            way = _Way(
                id_type, f"CAST({alias}.{_quoted(key)} AS VARCHAR)", f"{one.table} AS {alias}", alias, slug
            )
        else:
            said = self._document.entries(given["trait"], ("name", "join_key"))
            trait, key = self._text(said, "name"), self._text(said, "join_key")
            id_type = "profile_id"
            path = _text(f"$.{_quoted(trait)}")
            linked = f"json_extract_string(person.traits, {path}) = CAST({alias}.{_quoted(key)} AS VARCHAR)"
            tables = (
                f"{one.table} AS {alias} JOIN profiles AS person ON person.collection = 'users' AND {linked}"
            )
            way = _Way(id_type, "person.profile_id", tables, alias, slug)
        if not (id_type and key):
            self._refuse(
                value, "name both sides of the link: the identifier or trait, and join_key", named=False
            )
            return
        self._reach(one, way, value)
        self._follow(given, way, 1)

    def _follow(self, given: dict[str, Value], way: _Way, level: int) -> None:
        """Follow relationships that begin at an entity."""
        for _, value in self._relations(given):
            if level == LEVELS_MAX:
                self._refuse(value, f"there are more than {LEVELS_MAX} levels of relationships", named=False)
                return
            deeper = self._relation(value, ("join_on", "junction_table"))
            entity = self._related(deeper, value)
            if entity is None:
                continue
            slug, one = entity
            alias = self._alias()
            named = {way.slug: way.alias, slug: alias}
            if "join_on" in deeper:
                on = self._equation(deeper["join_on"], named, "")
                tables = f"{way.tables} JOIN {one.table} AS {alias} ON {on}"
            else:
                said = self._document.entries(
                    deeper["junction_table"], ("table_ref", "primary_key", "left_join_on", "right_join_on")
                )
                if not {"table_ref", "left_join_on", "right_join_on"} <= said.keys():
                    message = "a junction needs table_ref, left_join_on and right_join_on"
                    self._refuse(deeper["junction_table"], message, named=False)
                    continue
                between = self._alias()
                left = self._equation(said["left_join_on"], named, between)
                right = self._equation(said["right_join_on"], named, between)
                joined = f"{way.tables} JOIN {self._table(said['table_ref'])} AS {between} ON {left}"
                tables = f"{joined} JOIN {one.table} AS {alias} ON {right}"
            onward = _Way(way.id_type, way.id, tables, alias, slug)
            self._reach(one, onward, value)
            self._follow(deeper, onward, level + 1)

    def _relation(self, value: Value, ways: tuple[str, ...]) -> dict[str, Value]:
        given = self._document.entries(value, _RELATION)
        here = [name for name in _WAYS if name in given]
        if len(here) != 1 or here[0] not in ways:
            self._refuse(value, f"say how it is linked once: by {' or '.join(ways)}", named=False)
            return {}
        return given

    def _related(self, given: dict[str, Value], value: Value) -> tuple[str, _Entity] | None:
        if not given:
            return None
        slug = self._text(given, "related_entity")
        one = self._entities.get(slug)
        if one is None:
            known = ", ".join(sorted(self._entities))
            self._refuse(
                given.get("related_entity", value), f"it is one of the entities with a table: {known}"
            )
            return None
        return slug, one

    def _reach(self, one: _Entity, way: _Way, value: Value) -> None:
        if one.reached and one.id_type != way.id_type:
            message = (
                f"another way leads to it by {one.id_type}, this one by {way.id_type}; link it by one of them"
            )
            self._refuse(value, message, named=False)
            return
        one.id_type = way.id_type
        one.reached.append(
            f"SELECT {way.id} AS {LINK}, {way.alias}.* FROM {way.tables} WHERE {way.id} IS NOT NULL"  # noqa: S608 - quoted
        )

    def _equation(self, value: Value, named: dict[str, str], between: str) -> str:
        """Return a comparison of two columns; one that names no entity is of the junction."""
        match = _EQUATION.fullmatch(value.text or "")
        sides = [] if match is None else [(match[1], match[2]), (match[3], match[4])]
        aliases = [between if slug is None else named.get(slug, "") for slug, _ in sides]
        if not all(aliases) or len(set(aliases)) != 2:
            self._refuse(
                value, f"write which columns are equal, such as {' = '.join(f'{name}.id' for name in named)}"
            )
            return "false"
        return " = ".join(
            f"{alias}.{_quoted(column)}" for alias, (_, column) in zip(aliases, sides, strict=True)
        )

    # ---- single values -----------------------------------------------------------------------

    def _alias(self) -> str:
        self._aliases += 1
        return f"e{self._aliases}"

    def _table(self, value: Value) -> str:
        """Return a table as SQL names it: a word, or the last of three, is a linked table."""
        parts = (value.text or "").split(".")
        if not 1 <= len(parts) <= 3 or not all(parts):
            self._refuse(value, "name a table: orders, or schema.table")
            return _quoted("")
        if len(parts) == 2:
            return ".".join(map(_quoted, parts))
        return f"{_quoted(f'ws_{self._workspace}_linked')}.{_quoted(parts[-1])}"

    def _text(self, given: dict[str, Value], name: str) -> str:
        value = given.get(name)
        return "" if value is None or value.text is None else value.text.strip()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
