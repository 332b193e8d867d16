"""Catalogs that speak the Iceberg REST protocol: Polaris, Lakekeeper, Glue, S3 Tables, Unity, and others.

The server checks the requirements of a commit and writes the metadata file, so those files are its own.
"""

from typing import Any, Final

from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from profilelake.errors import Invalid
from profilelake.lake.catalog_answers import answering
from profilelake.lake.place import SECRET_VARIABLE, LakePlace

CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 60
"""How long a catalog may take for one request; a commit writes a metadata file there."""
NAMESPACES_MAX: Final = 10_000
"""Namespaces looked through for those of workspaces."""


class _Impatient(HTTPAdapter):
    """Lets no request wait for ever: the library gives its own no time-out."""

    def send(self, request: PreparedRequest, *args: Any, **named: Any) -> Response:
        named["timeout"] = named.get("timeout") or (CONNECT_SECONDS, ANSWER_SECONDS)
        return super().send(request, *args, **named)


class ServedCatalog(RestCatalog):
    """A REST catalog with time-outs, and the questions that only we ask."""

    owns_metadata: Final = False
    """Metadata files are the server's: we neither name nor remove them."""

    def __init__(self, name: str, namespaces_prefix: str, **properties: str) -> None:
        self._namespaces_prefix = namespaces_prefix
        super().__init__(name, **properties)

    def _create_session(self) -> Session:
        session = super()._create_session()
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Impatient())
        # We come with credentials of our own; making some for each table we load costs the server time.
        session.headers.pop("X-Iceberg-Access-Delegation", None)
        return session

    def pointers(self) -> dict[tuple[str, str], str]:
        """Return the current metadata file of every table of a workspace, one table after the other."""
        found: dict[tuple[str, str], str] = {}
        for namespace in self.list_namespaces()[:NAMESPACES_MAX]:
            if len(namespace) != 1 or not namespace[0].startswith(self._namespaces_prefix):
                continue
            for identifier in self.list_tables(namespace):
                location = self.metadata_location(namespace[0], identifier[-1])
                if location is not None:
                    found[namespace[0], identifier[-1]] = location
        return found

    def metadata_location(self, namespace: str, name: str) -> str | None:
        """Return the current metadata file of a table, None where there is no such table."""
        try:
            location: str = self.load_table((namespace, name)).metadata_location
        except NoSuchTableError:
            return None
        return location

    def newer(self, key: tuple[str, str], held: str | None) -> Table | None:
        """Load a table, or return None while its metadata file is still `held`. Raises NoSuchTableError."""
        table = self.load_table(key)
        return None if table.metadata_location == held else table


def open_rest_catalog(
    name: str, place: LakePlace, namespaces_prefix: str, properties: dict[str, str]
) -> ServedCatalog:
    """Open the catalog at a place.

    Raises: as `answering`, and Invalid where the secret or a package is missing that its way of knowing us needs.
    """
    given: dict[str, Any] = {"uri": place.catalog, **properties, **dict(place.properties()), **_shown(place)}
    doing = f"opening the catalog {place.catalog}"
    with answering(doing):
        try:
            return ServedCatalog(name, namespaces_prefix, **given)
        except ModuleNotFoundError as error:
            raise Invalid(f"{doing}: {error}; run: pip install '{error.name}'") from error
        except NoSuchNamespaceError as error:
            raise Invalid(
                f'{doing}: {error}; name the warehouse it knows: lake.catalog_options = "warehouse=..."'
            ) from error
        except ValueError as error:
            # An answer that is not what the protocol says: something else listens there.
            raise Invalid(
                f"{doing}: what answers there speaks no Iceberg REST protocol; correct lake.catalog"
            ) from error


def _shown(place: LakePlace) -> dict[str, str]:
    """Return the properties by which the catalog knows us."""
    if place.auth == "none":
        return {}
    if place.auth == "sigv4":
        return {"rest.sigv4-enabled": "true"}
    secret = place.secret()
    if secret is None:
        raise Invalid(
            f"opening the catalog {place.catalog}: lake.catalog_auth = {place.auth!r} needs a secret; put it into "
            f"the variable {SECRET_VARIABLE} or a file and name that in lake.catalog_secret_file"
        )
    if place.auth == "bearer":
        return {"token": secret}
    # Where no other server hands out tokens, the catalog does, at an address the protocol fixes.
    named = dict(place.properties()).get("oauth2-server-uri", f"{place.catalog}/v1/oauth/tokens")
    return {"credential": secret, "oauth2-server-uri": named}
