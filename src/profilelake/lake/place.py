"""Where a lake lies: its catalog and its warehouse, as the settings of a data directory say.

No secret is part of a place: it is read where a connection is made, so a place can be printed, compared,
pickled and written into a file.
"""

import json
import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from profilelake.errors import Conflict, Corrupt, Invalid
from profilelake.settings import Layout, Settings, StorageOptions

SECRET_VARIABLE: Final = "PROFILELAKE_CATALOG_SECRET"  # noqa: S105 - the name of it
SECRET_BYTES_MAX: Final = 64 * 1024
"""Tokens can be long; a longer file is another one."""

_DEFAULT_PORTS: Final = {"postgresql": 5432, "http": 80, "https": 443}
_REFUSED: Final = re.compile(r"[*?\[\]{}#%\"\\\x00-\x1f]")
"""Characters that other readers would take for a pattern or an escape."""
_SECRET: Final = re.compile(
    r"(?:.*[._-])?(?:credential|token|(?:ssl)?password|secret|authorization|cookie|access-key|access-key-id"
    r"|account-key|api-key|auth-key|private-key|connection-string|sas-token(?:\..*)?)",
    re.IGNORECASE,
)
"""Names of properties whose values are secrets, in every library that takes properties of catalogs."""
_USER_IN_URL: Final = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True, slots=True)
class LakePlace:
    """A catalog and a warehouse.

    `catalog` is a URL without a password, `warehouse` a location without a slash at its end.
    """

    catalog: str
    warehouse: str
    secret_file: str = ""
    auth: str = "oauth"
    options: str = ""
    table_locations: str = "warehouse"
    storage: StorageOptions = field(default_factory=StorageOptions)

    @classmethod
    def of(cls, layout: Layout, environment: Mapping[str, str]) -> Self:
        """Return where the lake of a data directory lies.

        Raises:
            Invalid: a setting cannot be read, or is no such place.
        """
        settings = Settings.load(layout.directory, environment)
        chosen = settings.lake
        folder = Path(os.path.abspath(layout.directory))  # noqa: PTH100 - a link stays a link in published paths
        place = cls(
            catalog=_catalog(chosen.catalog or f"sqlite:///{folder / layout.catalog.name}", folder),
            warehouse=_warehouse(chosen.warehouse or layout.warehouse.name, folder),
            secret_file=str(folder / chosen.catalog_secret_file) if chosen.catalog_secret_file else "",
            auth=chosen.catalog_auth,
            options=chosen.catalog_options,
            table_locations=chosen.table_locations,
            storage=settings.storage,
        )
        place.properties()
        if chosen.catalog_plain_http == "refused":
            _refuse_plain_http(place)
        return place

    @classmethod
    def at(cls, catalog: str, warehouse: Path | str) -> Self:
        """Return the place of a lake by its two addresses; paths are seen from here. Raises Invalid as `of`."""
        here = Path.cwd()
        return cls(catalog=_catalog(catalog, here), warehouse=_warehouse(str(warehouse), here))

    @property
    def kind(self) -> str:
        """`sqlite`, `postgresql` or `rest`."""
        scheme = urlsplit(self.catalog).scheme
        return "rest" if scheme in ("http", "https") else scheme

    @property
    def identity(self) -> tuple[str, str]:
        """Which lake this is; how it is reached, and by whom, is not part of it."""
        parts = urlsplit(self.catalog)
        if self.kind == "sqlite":
            return self.catalog, self.warehouse
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        named = dict(self.properties()).get("warehouse", "")
        where = f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}{parts.path.rstrip('/')}"
        return f"{where} {named}".rstrip(), self.warehouse

    def properties(self) -> list[tuple[str, str]]:
        """Return `options` one by one. Raises Invalid for what is no `name=value`, or a secret."""
        found = []
        for part in filter(None, (part.strip() for part in self.options.split(","))):
            name, equals, value = part.partition("=")
            if not equals or not name.strip():
                raise Invalid(
                    f"setting lake.catalog_options: {name!r} has no value; write name=value, name=value"
                )
            if _SECRET.fullmatch(name.strip()) or _USER_IN_URL.search(value):
                # Not repeated: options are noted, and printed for other engines.
                raise Invalid(
                    f"setting lake.catalog_options: {name.strip()} holds a secret; put that into the variable "
                    f"{SECRET_VARIABLE} or the file of lake.catalog_secret_file, and leave it out here"
                )
            found.append((name.strip(), value.strip()))
        return found

    def secret(self, environment: Mapping[str, str] | None = None) -> str | None:
        """Read the secret of the catalog, anew at each call, so that it can be changed while we run.

        Raises:
            Invalid: the file that settings name cannot be read, or everybody may read it.
        """
        given = (os.environ if environment is None else environment).get(SECRET_VARIABLE)
        if given:
            return given
        if not self.secret_file:
            return None
        path = Path(self.secret_file)
        try:
            if path.stat().st_mode & 0o007:
                raise Invalid(f"reading the secret in {path}: everybody may read it; run: chmod 600 {path}")
            content = path.read_bytes()[: SECRET_BYTES_MAX + 1]
        except OSError as error:
            raise Invalid(
                f"reading the secret in {path}: {error.strerror}; put it there, or into the variable "
                f"{SECRET_VARIABLE}"
            ) from error
        text = content.decode("utf-8", "replace").strip()
        if not text or len(content) > SECRET_BYTES_MAX or "\n" in text:
            raise Invalid(f"reading the secret in {path}: it is not one line of text; write the secret alone")
        return text


_NOTED: Final = tuple(part.name for part in fields(LakePlace) if part.type in (str, "str"))
"""What a directory notes; how an object store is spoken to is not part of where the lake is."""


def refuse_another(layout: Layout, place: LakePlace) -> bool:
    """See that a directory's lake is where it was; return whether it was anywhere yet.

    Raises:
        Conflict: settings name another place than before: there, everything would begin anew.
        Corrupt: what was noted cannot be read.
    """
    noted = noted_place(layout)
    if noted is not None and noted.identity != place.identity and _never_used(layout):
        # A first start elsewhere makes this file before it notes where; it may have been killed between.
        noted = None
    if noted is not None and noted.identity != place.identity:
        raise Conflict(
            f"opening the lake of {layout.directory}: its tables are known to {noted.catalog} and lie in "
            f"{noted.warehouse}, settings name {place.catalog} and {place.warehouse}; put the settings back"
            + (
                ", or take the tables there: profilelake lake move --help"
                if noted.warehouse == place.warehouse
                else ": files are not taken to another warehouse by a setting"
            )
        )
    return noted is not None


def note_first(layout: Layout, place: LakePlace) -> None:
    """Note where the lake is, once it was opened, where nobody could guess that."""
    if not layout.lake_record.exists() and place.identity != default_place(layout).identity:
        note(layout, place)


def default_place(layout: Layout) -> LakePlace:
    """Return where the lake lies when no setting says otherwise."""
    folder = Path(os.path.abspath(layout.directory))  # noqa: PTH100 - as in `LakePlace.of`
    return LakePlace(f"sqlite:///{folder / layout.catalog.name}", _warehouse(layout.warehouse.name, folder))


def noted_place(layout: Layout) -> LakePlace | None:
    """Return where the lake of a directory was when it was last opened; None where there was none yet.

    Raises:
        Corrupt: the note cannot be read.
    """
    try:
        document = json.loads(layout.lake_record.read_text(encoding="utf-8"))
        noted: dict[str, Any] = {name: str(value) for name, value in document.items() if name in _NOTED}
        return replace(default_place(layout), **noted)
    except FileNotFoundError:
        return default_place(layout) if layout.catalog.exists() else None
    except (ValueError, TypeError, AttributeError) as error:
        raise Corrupt(
            f"reading {layout.lake_record}: it is not what we wrote; restore it from a backup, or remove it "
            "where settings name the right place"
        ) from error


def _never_used(layout: Layout) -> bool:
    """Tell whether nothing but an empty catalog says that the lake lies in the directory itself."""
    if layout.lake_record.exists() or layout.warehouse.exists():
        return False
    try:
        with closing(
            sqlite3.connect(f"{layout.catalog.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return connection.execute("SELECT 1 FROM iceberg_tables LIMIT 1").fetchone() is None
    except sqlite3.OperationalError as error:
        return "no such table" in str(error)
    except sqlite3.DatabaseError:
        return False


def note(layout: Layout, place: LakePlace) -> None:
    """Write down where the lake of a directory lies."""
    # What lies in the directory is not written: it goes with it when that is moved.
    usual, found = default_place(layout), asdict(place)
    noted = {name: found[name] for name in _NOTED if found[name] != getattr(usual, name)}
    unfinished = layout.lake_record.with_name(f".{layout.lake_record.name}.{os.getpid()}.new")
    with unfinished.open("w", encoding="utf-8") as sink:
        json.dump(noted, sink, indent=2)
        sink.write("\n")
        sink.flush()
        os.fsync(sink.fileno())
    unfinished.replace(layout.lake_record)
    descriptor = os.open(layout.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def on_loopback(url: str) -> bool:
    """Tell whether a URL names this machine, so that what is sent there passes no network."""
    host = urlsplit(url).hostname or "localhost"
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_plain_http(place: LakePlace) -> None:
    server = dict(place.properties()).get("oauth2-server-uri", "")
    for name, url in (("catalog", place.catalog), ("catalog_options: oauth2-server-uri", server)):
        if url.startswith("http://") and not on_loopback(url):
            raise Invalid(
                f"setting lake.{name} = {url!r}: that is without TLS, and secrets and tokens would pass in the clear; "
                'give its https:// address, or write catalog_plain_http = "allowed" in [lake] where the network '
                "is trusted"
            )


def _catalog(text: str, folder: Path) -> str:
    scheme, mark, rest = text.partition("://")
    kind = {"postgres": "postgresql", "postgresql+psycopg": "postgresql"}.get(scheme, scheme)
    if kind == "sqlite":
        if rest in ("", "/", "/:memory:"):
            raise Invalid("opening the lake: a SQLite catalog is a file; give its absolute path")
        # Four slashes before an absolute path, as SQLAlchemy has it; a relative one is seen from the folder.
        return f"sqlite:///{os.path.normpath(folder / rest.removeprefix('/'))}"
    if kind not in ("postgresql", "http", "https"):
        # Text without a scheme may hold a password anywhere.
        said = f"{scheme!r} is" if mark else "it is no URL, so it is"
        raise Invalid(
            f"setting lake.catalog: {said} no kind of catalog; give sqlite:////path, "
            "postgresql://user@host/database or https://address"
        )
    parts = urlsplit(f"{kind}://{rest}")
    if not _has_port(parts) or "@" in parts.path:
        # Not repeated: of a password with a slash in it the first part looks like a port, the other like a path.
        raise Invalid(f"setting lake.catalog: its host or port cannot be read; write {kind}://host:port/path")
    secret = any(_SECRET.fullmatch(name) for name, _ in parse_qsl(parts.query))
    if parts.password is not None or secret:
        raise Invalid(
            "setting lake.catalog: it holds a password; put that into ~/.pgpass, the variable "
            f"{SECRET_VARIABLE} or the file of lake.catalog_secret_file, and leave it out here"
        )
    if kind == "postgresql" and not parts.path.strip("/"):
        raise Invalid("setting lake.catalog: it names no database; write postgresql://user@host/database")
    if kind != "postgresql" and not parts.hostname:
        raise Invalid("setting lake.catalog: it names no host; write https://host/path")
    return f"{kind}://{rest}".rstrip("/")


def _has_port(parts: SplitResult) -> bool:
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def _warehouse(text: str, folder: Path) -> str:
    scheme, mark, rest = text.partition("://")
    if mark and scheme != "file":
        if not rest.strip("/"):
            raise Invalid(f"setting lake.warehouse = {text!r}: it names no bucket; write s3://bucket/prefix")
        location = text.rstrip("/")
    else:
        location = "file://" + os.path.normpath(folder / (rest if mark else text))
    if refused := _REFUSED.search(location):
        raise Invalid(
            f"opening the lake: warehouse path {location.removeprefix('file://')!r} contains "
            f"{refused.group()!r}; choose another"
        )
    return location
