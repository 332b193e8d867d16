"""One entry of `traits:` or `audiences:` in a file, read into a definition."""

import re
from dataclasses import dataclass
from typing import Final

from profilelake.definitions._yaml import Document, Value
from profilelake.definitions.graph import Linked
from profilelake.errors import Invalid
from profilelake.semantics.conditions.forms import from_tree
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.pointing import ParseError, pointed
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import Root
from profilelake.semantics.definitions import EXTERNAL_IDS, Definition, Kind, Target, fault_of_key

NAME_CHARACTERS_MAX: Final = 200
DESCRIPTION_CHARACTERS_MAX: Final = 2_000
SQL_CHARACTERS_MAX: Final = 65_535
EXTERNAL_IDS_MAX: Final = 20
DESTINATIONS_MAX: Final = 50
EVERY_SECONDS: Final = 43_200
"""How often SQL runs that does not say it: twice a day."""
EVERY_SECONDS_MIN: Final = 900
EVERY_SECONDS_MAX: Final = 31 * 86_400

TREES: Final = {"audiences": "when", "traits": "value"}
"""For sections of conditions the key under which one stands as a tree."""
KEYS: Final = (
    "name",
    "description",
    "enabled",
    "target",
    "query",
    "when",
    "value",
    "sql",
    "id",
    "every",
    "external_ids",
    "historical",
    "destinations",
)
TABLE_KEYS: Final = ("table_ref", "primary_key", "enrichment_enabled")
"""Of an entity that is a table; its rows are linked by relationships."""
_TARGETS: Final[tuple[Target, ...]] = ("users", "accounts")
_UNITS: Final = {"minute": 60, "hour": 3_600, "day": 86_400}
_EVERY: Final = re.compile(r"([1-9][0-9]{0,4}) (minute|hour|day)s?")


@dataclass(frozen=True, slots=True)
class Written:
    """A definition as a file says it, and where it stands; without a `root` it is SQL."""

    definition: Definition
    root: Root | None
    said: Value
    line: int
    destinations: tuple[str, ...] = ()


class Entry:
    """Reads the entry of one key; whatever is wrong is noted in the document, and reading goes on."""

    def __init__(
        self,
        document: Document,
        section: str,
        key: str,
        value: Value,
        managed_by: str,
        linked: Linked | None = None,
    ) -> None:
        self._document, self._section, self._key, self._value = document, section, key, value
        self._managed_by = managed_by
        self._linked = linked
        self._found: dict[str, Value] = {}

    def read(self) -> Written | None:
        """Return the definition, None where it is not even clear what it is.

        It is good only if the document has no problems.
        """
        fault = fault_of_key(self._key)
        if fault is not None:
            self._document.refuse(self._value, fault, named=False)
            return None
        tree = TREES.get(self._section)
        left_out = {*TREES.values(), *(() if tree else ("query", "external_ids", "historical"))}
        known = tuple(key for key in KEYS if key == tree or key not in left_out)
        known += TABLE_KEYS if self._section == "entities" else ()
        self._found = self._document.entries(self._value, known)
        ways = [
            name for name in ("query", tree, "sql", "table_ref") if name is not None and name in self._found
        ]
        if len(ways) != 1:
            message = "say which rows there are once: with `sql`, or with `table_ref` and relationships"
            if tree is not None:
                message = f"say what it is once: one of `query` (text), `{tree}` (a tree) and `sql`"
            self._document.refuse(self._value, message, named=False)
            return None
        root, query = self._meaning(ways[0])
        if query is None:
            return None
        target = self._target()
        definition = Definition(
            key=self._key,
            kind=self._kind(sql=ways[0] in ("sql", "table_ref")),
            query=query,
            target=target,
            name=self._text("name", NAME_CHARACTERS_MAX),
            description=self._text("description", DESCRIPTION_CHARACTERS_MAX),
            enabled=self._flag("enabled", default=True),
            external_ids=self._external_ids(target),
            historical=self._flag("historical", default=True),
            every_seconds=self._every(sql=ways[0] in ("sql", "table_ref")),
            managed_by=self._managed_by,
            id_type=self._id_type(sql=ways[0] in ("sql", "table_ref")),
        )
        return Written(definition, root, self._found[ways[0]], self._value.line, self._destinations())

    def _kind(self, *, sql: bool) -> Kind:
        if self._section == "entities":
            return "entity"
        if self._section == "audiences":
            return "sql_audience" if sql else "audience"
        return "sql_trait" if sql else "trait"

    def _meaning(self, way: str) -> tuple[Root | None, str | None]:
        value = self._found[way]
        if way == "sql":
            return None, self._required(value, SQL_CHARACTERS_MAX)
        if way == "table_ref":
            return None, "" if self._linked is None else self._linked.query
        if way == "query":
            text = value.text
            if text is None or not text.strip():
                self._document.refuse(
                    value, "write the query as text, such as event('Order Completed').count() >= 2"
                )
                return None, None
            try:
                return parse(text.strip()), text.strip()
            except ParseError as error:
                self._refuse_query(value, error)
                return None, None
        # The tree may be as deep as it is; what is wrong in it is told by where in the tree it stands.
        problems = len(self._document.problems)
        tree = self._document.json(value)
        if len(self._document.problems) > problems:
            return None, None
        try:
            root = from_tree(tree)
            return root, written(root)
        except Invalid as error:
            self._document.refuse(value, str(error), named=False)
            return None, None

    def _refuse_query(self, value: Value, error: ParseError) -> None:
        message = f"column {error.column}: {error.problem}\n{pointed(str(value.text).strip(), error.span)}"
        self._document.refuse_at(value.line_of_text(error.line - 1), value.key, indented(message))

    def _required(self, value: Value, characters_max: int) -> str | None:
        text = value.text
        if text is None or not text.strip():
            self._document.refuse(value, "write it as text")
            return None
        if len(text) > characters_max:
            self._document.refuse(
                value, f"it has {len(text):,} characters, the most is {characters_max:,}", named=False
            )
            return None
        return text.strip()

    def _text(self, name: str, characters_max: int) -> str:
        value = self._found.get(name)
        if value is None or value.empty:
            return ""
        return self._required(value, characters_max) or ""

    def _flag(self, name: str, *, default: bool) -> bool:
        value = self._found.get(name)
        if value is None:
            return default
        if value.text not in ("true", "false"):
            self._document.refuse(value, "write true or false")
        return value.text == "true"

    def _target(self) -> Target:
        value = self._found.get("target")
        if value is None:
            return "users"
        for target in _TARGETS:
            if value.text == target:
                return target
        self._document.refuse(value, "it is one of users and accounts")
        return "users"

    def _external_ids(self, target: Target) -> tuple[str, ...]:
        value = self._found.get("external_ids")
        if self._section != "audiences" or target == "accounts":
            if value is not None:
                what = "accounts" if self._section == "audiences" else self._section
                self._document.refuse(value, f"{what} ask for no identifiers; leave it out", named=False)
            return EXTERNAL_IDS
        if value is None:
            return EXTERNAL_IDS
        return (
            ()
            if value.text == "none"
            else self._words(value, EXTERNAL_IDS_MAX, "types of identifiers, or none")
        )

    def _destinations(self) -> tuple[str, ...]:
        value = self._found.get("destinations")
        return () if value is None else self._words(value, DESTINATIONS_MAX, "names from destinations.yaml")

    def _words(self, value: Value, most: int, what: str) -> tuple[str, ...]:
        items = value.items()
        words = [item.text for item in items or ()]
        if items is None or not all(words) or len(words) > most:
            self._document.refuse(value, f"write a list of at most {most} {what}")
            return ()
        return tuple(dict.fromkeys(str(word) for word in words))

    def _id_type(self, *, sql: bool) -> str:
        value = self._found.get("id")
        if "table_ref" in self._found:
            if value is not None:
                self._document.refuse(value, "a table is linked by relationships; leave this out")
            return "" if self._linked is None else self._linked.id_type
        if not sql:
            if value is not None:
                self._document.refuse(value, "only SQL has a column of ids; leave it out")
            return ""
        if value is None or not value.text:
            message = "name the column of identifiers with `id`, such as id: user_id"
            self._document.refuse(value or self._value, message, named=False)
            return ""
        return value.text

    def _every(self, *, sql: bool) -> int:
        value = self._found.get("every")
        if not sql:
            if value is not None:
                self._document.refuse(
                    value, "only SQL has a schedule, the rest is always up to date; leave it out"
                )
            return 0
        if value is None:
            return EVERY_SECONDS
        match = _EVERY.fullmatch(value.text or "")
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not EVERY_SECONDS_MIN <= seconds <= EVERY_SECONDS_MAX:
            self._document.refuse(value, "write how often from 15 minutes to 31 days, such as 6 hours")
            return EVERY_SECONDS
        return seconds


def indented(message: str) -> str:
    """Return a message of several lines as one of an error that stands under its file."""
    return message.replace("\n", "\n    ")
