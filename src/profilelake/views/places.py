"""Where the tables and views of a workspace lie, and what a view is."""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import duckdb

from profilelake.lake import sql
from profilelake.lake.catalog import namespace_of

Schema: TypeAlias = Literal["tables", "sync", "warehouse"]


@dataclass(frozen=True, slots=True)
class Places:
    """The names of the schemas that hold tables, Profiles Sync and warehouse."""

    tables: str
    sync: str
    warehouse: str

    @classmethod
    def of(cls, workspace: str) -> "Places":
        """Return the places that are named like the namespaces of the workspace."""
        return cls(
            namespace_of(workspace, ""), namespace_of(workspace, "sync"), namespace_of(workspace, "warehouse")
        )

    def schema(self, place: Schema) -> str:
        """Return the quoted name of a schema."""
        return sql.identifier({"tables": self.tables, "sync": self.sync, "warehouse": self.warehouse}[place])


@dataclass(frozen=True, slots=True)
class View:
    """A view: where it lies, what it is called, and the query behind it."""

    MARK: ClassVar[str] = "made by profilelake"
    """Comment by which a view of ours is known from others in its schema."""

    place: Schema
    name: str
    select: str

    def name_in(self, places: Places) -> str:
        """Return the quoted name with its schema."""
        return f"{places.schema(self.place)}.{sql.identifier(self.name)}"

    def create(self, connection: duckdb.DuckDBPyConnection, places: Places) -> None:
        """Create it, or put it in the place of what has its name."""
        connection.execute(f"CREATE OR REPLACE VIEW {self.name_in(places)} AS {self.select}")

    def mark(self, connection: duckdb.DuckDBPyConnection, places: Places) -> None:
        """Note in the database that this view is ours."""
        connection.execute(f"COMMENT ON VIEW {self.name_in(places)} IS {sql.text(self.MARK)}")
