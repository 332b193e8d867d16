"""What catalogs say when something is wrong, in our words: the caller's mistake, or not to be had now.

PostgreSQL tells a wrong password only by its text; all else has a code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pyiceberg.exceptions import (
    BadRequestError,
    ForbiddenError,
    OAuthError,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    UnauthorizedError,
)
from requests.exceptions import InvalidJSONError, RequestException
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from profilelake.errors import Corrupt, Invalid, ProfilelakeError, Unavailable

__all__ = ["LOCKED", "NotCommitted", "answering", "told"]

LOCKED: Final = frozenset({"55P03", "57014"})
"""Codes of PostgreSQL for a lock that did not come in time, and a statement that took too long."""

_REFUSED: Final = {
    "28000": "name a role that may log in: lake.catalog = postgresql://user@host/database",
    "28P01": "put the right password into ~/.pgpass or the file of lake.catalog_secret_file",
    "3D000": "make the database first: createdb, or correct lake.catalog",
    "3F000": "make a schema for it, or correct the search_path of the role",
    "42501": "let the role make and change tables: GRANT USAGE, CREATE ON SCHEMA public TO the role; "
    "GRANT ALL ON iceberg_tables, iceberg_namespace_properties TO the role",
    "42P01": "its tables are gone; restore the database, or correct lake.catalog",
    "42703": "iceberg_tables is of another version than V1; run there: "
    "ALTER TABLE iceberg_tables ADD COLUMN iceberg_type VARCHAR(5)",
    "25006": "that server is read only, a standby perhaps; name the primary: ?target_session_attrs=read-write",
}
"""What to do about what PostgreSQL refuses, by its code."""
_TEXTS: Final = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("does not exist", "3D000"),
)
"""How a connection is refused; the library hands on no code for that."""
_TLS: Final = ("SSL", "certificate")


class NotCommitted(Unavailable):
    """The catalog did not take a commit, for certain; the same may be tried again."""


@contextmanager
def answering(doing: str, *, opening: bool = False) -> Iterator[None]:
    """Ask a catalog inside; what it refuses, or fails to answer, is told as an error of ours.

    What it says of a table (no such table, another commit came first) goes through unchanged.

    Raises:
        Unavailable: it does not answer, is locked, or refuses us.
        Invalid: it refuses us while it is opened: password, rights, database, address.
        Corrupt: the file of a SQLite catalog is none.
    """
    try:
        yield
    except (DBAPIError, PoolTimeout, RequestException, RESTError) as error:
        raise told(doing, error, opening=opening) from error


def told(doing: str, error: Exception, *, opening: bool = False) -> ProfilelakeError:
    """Return what an exception of a catalog means. The text names no secret: neither do those of the libraries."""
    # Who may open a catalog may lose the right while we run: the operator's to mend, not the caller's.
    refused: type[ProfilelakeError] = Invalid if opening else Unavailable
    if isinstance(error, DBAPIError):
        return _told_by_database(doing, error, refused)
    if isinstance(error, PoolTimeout):
        return Unavailable(f"{doing}: all connections to the catalog are in use; retry later")
    if isinstance(error, (UnauthorizedError, OAuthError)):
        return refused(
            f"{doing}: the catalog does not know us ({_first_line(error)}); see that the secret is right and "
            "lake.catalog_auth is what the catalog wants"
        )
    if isinstance(error, ForbiddenError):
        return refused(f"{doing}: the catalog forbids it ({_first_line(error)}); have it grant us that")
    if isinstance(error, BadRequestError):
        return refused(f"{doing}: the catalog refuses it ({_first_line(error)})")
    if isinstance(error, InvalidJSONError):
        return refused(f"{doing}: what answers there speaks no Iceberg REST protocol; correct lake.catalog")
    if isinstance(error, RequestException):
        # Its text holds the whole address with what was asked; which server it was is enough.
        return Unavailable(f"{doing}: the catalog does not answer ({type(error).__name__}); retry later")
    if not opening or isinstance(error, (ServerError, ServiceUnavailableError, TooManyRequestsError)):
        return Unavailable(f"{doing}: {_first_line(error)}; retry later")
    return Invalid(f"{doing}: {_first_line(error)}; see that an Iceberg REST catalog answers there")


def _told_by_database(doing: str, error: DBAPIError, refused: type[ProfilelakeError]) -> ProfilelakeError:
    said = _first_line(error.orig or error)
    code = getattr(error.orig, "sqlstate", None)
    if code in LOCKED:
        return Unavailable(
            f"{doing}: the catalog is locked: {said}; another transaction holds it, look there for one that is "
            "idle in transaction in pg_stat_activity; retry later"
        )
    if code is None and isinstance(error, OperationalError) and "database is locked" in said:
        return Unavailable(f"{doing}: another process is writing to the catalog ({said}); retry later")
    if code is None and isinstance(error, OperationalError) and "connection" in said:
        code = next((known for text, known in _TEXTS if text in said), None)
        if code is None and any(word in said for word in _TLS):
            return refused(f"{doing}: {said}; correct sslmode and sslrootcert in lake.catalog")
    if code in _REFUSED:
        return refused(f"{doing}: {said}; {_REFUSED[code]}")
    if isinstance(error, (OperationalError, InterfaceError)):
        return Unavailable(f"{doing}: the catalog does not answer: {said}; retry later")
    if isinstance(error, ProgrammingError):
        return refused(f"{doing}: {said}; lake.catalog names a database that holds something else")
    if isinstance(error, DatabaseError):
        return Corrupt(f"{doing}: the catalog cannot be read: {said}; restore it from backup")
    return Unavailable(f"{doing}: {said}; retry later")


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__
