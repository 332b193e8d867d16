"""Which statements are queries: one, that only reads, over tables and a closed list of functions.

It makes clear errors of what cannot work and keeps the engine's lesser-used corners out of reach. It is
not what safety rests on: that is `query.jail`, and every attack is tried without this gate too.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import duckdb
import msgspec

from profilelake.query.failures import Failed, failed, of_engine

QUERY_BYTES_MAX: Final = 256 * 1024
STATEMENTS: Final = (
    "SELECT, WITH, FROM, VALUES, TABLE, DESCRIBE, SHOW TABLES, SUMMARIZE, or EXPLAIN of one of them"
)


class TableNamed(msgspec.Struct, frozen=True):
    """A table that a query names, and the byte of the query where it does."""

    schema: str
    name: str
    offset: int | None


class Checked(msgspec.Struct, frozen=True):
    """A query that may run: the tables it names, and whether all there are have to be known to it."""

    tables: list[TableNamed]
    all_tables: bool


_TABLE_FUNCTIONS: Final = frozenset(
    {"range", "generate_series", "unnest", "json_each", "json_tree", "repeat", "repeat_row"}
)
_REFUSED_FUNCTIONS: Final = re.compile(
    r"getenv|getvariable|current_setting|set_config|nextval|currval|which_secret|write_log|query|query_table"
    r"|sql_auto_complete|read_\w+|parquet_\w+|sniff_\w+|glob|json_(?:de)?serialize_\w+|json_execute_\w+"
    r"|duckdb_\w+|pragma_\w+|parse_duckdb_log_message|add_parquet_key|force_checkpoint|checkpoint",
    re.IGNORECASE,
)
_QUERY_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_KINDS: Final = frozenset(
    {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"}
)
_SHOWN: Final = frozenset({'"tables"', "tables", ""})
_EXPLAIN: Final = re.compile(r"\s*explain\s+(?:analyze\s+)?(?=[\w(])", re.IGNORECASE)


def check(connection: duckdb.DuckDBPyConnection, query: str) -> Checked:
    """Return what a query reads. `connection` only parses; nothing is run.

    Raises:
        Failed: it is not one statement that only reads.
    """
    if len(query.encode(errors="surrogatepass")) > QUERY_BYTES_MAX:
        raise failed("too_complex", f"the query has more than {QUERY_BYTES_MAX:,} bytes")
    if "\0" in query or not _encodable(query):
        raise failed("invalid_sql", "the query has characters that are no text")
    text = _without_explain(connection, query)
    shift = len(query.encode()) - len(text.encode())
    if _statement(connection, text, query, shift) != "SELECT":
        raise failed("not_a_query", f"only queries are answered: {STATEMENTS}")
    tree = _tree(connection, text, query, shift)
    checked = _Walk(query, shift)
    checked.walk(tree)
    return Checked(checked.found(), checked.shows)


def _encodable(query: str) -> bool:
    try:
        query.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_explain(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    if _statement(connection, query, query, 0) != "EXPLAIN":
        return query
    begin = _EXPLAIN.match(query)
    if begin is None:
        raise failed("not_a_query", "write EXPLAIN or EXPLAIN ANALYZE, and then the query, and nothing else")
    return query[begin.end() :]


def _statement(connection: duckdb.DuckDBPyConnection, text: str, query: str, shift: int) -> str:
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise of_engine(error, query, shift) from None
    if len(statements) != 1:
        raise failed("one_statement", f"give one statement; this is {len(statements) or 'none'}")
    try:
        kind: str = statements[0].type.name
    except ValueError:
        kind = ""  # one that the engine has and its library has no name for
    return kind


def _tree(connection: duckdb.DuckDBPyConnection, text: str, query: str, shift: int) -> Any:
    try:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()[0]
        tree = json.loads(row[0])
    except duckdb.Error as error:
        raise of_engine(error, query, shift) from None
    except RecursionError:
        raise failed("too_complex", "the query is nested too deeply") from None
    if tree.get("error"):
        position = str(tree.get("position", ""))
        offset = int(position) + shift if position.isdigit() else None
        code = "invalid_sql" if tree.get("error_type") == "parser" else "not_a_query"
        raise failed(code, str(tree.get("error_message")), query, offset)  # type: ignore[arg-type]
    return tree["statements"]


class _Walk:
    """Goes through the tree of a query and collects what it names."""

    def __init__(self, query: str, shift: int) -> None:
        self._query = query
        self._shift = shift
        self._tables: dict[tuple[str, str], TableNamed] = {}
        self._own: set[str] = set()
        self.shows = False

    def walk(self, tree: Any) -> None:
        """Check every node; raise Failed at the first that may not be."""
        try:
            for node in _nodes(tree):
                self._node(node)
        except RecursionError:
            raise failed("too_complex", "the query is nested too deeply") from None

    def found(self) -> list[TableNamed]:
        """Return the tables that are not made by the query itself."""
        return [table for (schema, name), table in self._tables.items() if schema or name not in self._own]

    def _node(self, node: dict[str, Any]) -> None:
        kind = node.get("type")
        for entry in (node.get("cte_map") or {}).get("map", ()):
            self._own.add(str(entry["key"]).lower())
        if node.get("cte_name"):
            self._own.add(str(node["cte_name"]).lower())
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _QUERY_NODES:
            raise self._refused(node, "not_a_query", f"only queries are answered: {STATEMENTS}")
        if (
            "sample" in node
            and "class" not in node
            and "select_list" not in node
            and kind not in _TABLE_KINDS
        ):
            raise self._refused(node, "not_allowed", f"{str(kind).lower()} is not answered here")
        if kind == "BASE_TABLE":
            self._table(node)
        elif kind == "TABLE_FUNCTION":
            name = str((node.get("function") or {}).get("function_name", ""))
            if name.lower() not in _TABLE_FUNCTIONS:
                raise self._refused(node, "not_allowed", f"function {name} is not available here")
        elif kind == "SHOW_REF":
            self.shows = True
            if node.get("show_type") not in ("DESCRIBE", "SUMMARY") and node.get("table_name") not in _SHOWN:
                raise self._refused(node, "not_allowed", "only SHOW TABLES is answered")
        elif "function_name" in node:
            name = str(node["function_name"])
            if _REFUSED_FUNCTIONS.fullmatch(name):
                raise self._refused(node, "not_allowed", f"function {name} is not available here")

    def _table(self, node: dict[str, Any]) -> None:
        schema, name = str(node.get("schema_name", "")), str(node.get("table_name", ""))
        if node.get("catalog_name") or node.get("at_clause"):
            raise self._refused(
                node, "table_not_found", f"there is no table {name} of another catalog or time"
            )
        if schema.lower() == "information_schema":
            self.shows = True
            return
        # The engine does not tell names apart by their case.
        key = schema.lower(), name.lower()
        self._tables.setdefault(key, TableNamed(schema, name, self._offset(node)))

    def _offset(self, node: dict[str, Any]) -> int | None:
        location = node.get("query_location")
        known = isinstance(location, int) and location < QUERY_BYTES_MAX
        return location + self._shift if known and isinstance(location, int) else None

    def _refused(self, node: dict[str, Any], code: Any, message: str) -> Failed:
        return failed(code, message, self._query, self._offset(node))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
