"""Catalogs that speak the Iceberg REST protocol: Polaris, Lakekeeper, Glue, S3 Tables, Unity, and others.

The server checks the requirements of a commit and writes the metadata file, so those files are its own.
"""

import threading
import time
from typing import Final

from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.rest.auth import AuthManager, AuthManagerAdapter
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, OAuthError
from pyiceberg.table import Table
from requests import PreparedRequest, Response, Session, post
from requests.adapters import BaseAdapter

from profilelake.errors import Invalid
from profilelake.lake.catalog_answers import answering
from profilelake.lake.place import SECRET_VARIABLE, LakePlace

CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 60
"""How long a catalog may take for one request; a commit writes a metadata file there."""
TOKEN_SECONDS: Final = 3_600
"""How long a token is taken to be good whose maker does not say."""
TOKEN_MARGIN_SECONDS: Final = 60
NAMESPACES_MAX: Final = 10_000
"""Namespaces looked through for those of workspaces."""

_TOKEN_PROPERTIES: Final = ("scope", "audience", "resource")


class _Impatient(BaseAdapter):
    """Lets no request wait for ever: the library gives its own no time-out."""

    def __init__(self, inner: BaseAdapter) -> None:
        super().__init__()
        self._inner = inner

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
    ) -> Response:
        bounded = timeout or (CONNECT_SECONDS, ANSWER_SECONDS)
        return self._inner.send(request, stream, bounded, verify, cert, proxies)

    def close(self) -> None:
        self._inner.close()


class _Shown(AuthManager):
    """Says who we are. The secret is read when it is needed, so one that was changed is good at once."""

    def __init__(self, place: LakePlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._token: str | None = None
        self._good_until = 0.0

    def auth_header(self) -> str | None:
        if self._place.auth in ("none", "sigv4"):
            return None
        if self._place.auth == "bearer":
            return f"Bearer {self._secret()}"
        with self._lock:
            if self._token is None or time.monotonic() >= self._good_until:
                self._token, seconds = self._fetch()
                self._good_until = time.monotonic() + max(seconds - TOKEN_MARGIN_SECONDS, seconds / 2)
            return f"Bearer {self._token}"

    def forget(self) -> None:
        """Take the token for bad: the catalog did."""
        with self._lock:
            self._token = None

    def _fetch(self) -> tuple[str, float]:
        properties = dict(self._place.properties())
        # Where no other server hands out tokens, the catalog does, at an address the protocol fixes.
        url = properties.get("oauth2-server-uri", f"{self._place.catalog}/v1/oauth/tokens")
        if url.startswith("http://") and self._place.catalog.startswith("https://"):
            raise Invalid(
                f"opening the catalog {self._place.catalog}: oauth2-server-uri in lake.catalog_options is without "
                "TLS, and the secret would pass in the clear; give its https:// address"
            )
        client, _, secret = self._secret().rpartition(":")
        asked = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
        asked |= {"scope": "catalog"}
        asked |= {name: properties[name] for name in _TOKEN_PROPERTIES if name in properties}
        # A redirection could take the secret anywhere, by any means.
        answer = post(url, data=asked, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), allow_redirects=False)
        if answer.is_redirect:
            raise OAuthError(
                f"{url} sends us elsewhere ({answer.status_code}); give the address that answers itself as "
                "oauth2-server-uri in lake.catalog_options"
            )
        if answer.status_code in (400, 401, 403):
            raise OAuthError(f"{url} gives no token: {answer.status_code} {answer.reason}")
        answer.raise_for_status()
        document = answer.json()
        token = document.get("access_token") if isinstance(document, dict) else None
        if not isinstance(token, str):
            raise OAuthError(
                f"{url} answers without a token; correct oauth2-server-uri in lake.catalog_options"
            )
        return token, float(document.get("expires_in") or TOKEN_SECONDS)

    def _secret(self) -> str:
        secret = self._place.secret()
        if secret is None:
            raise Invalid(
                f"opening the catalog {self._place.catalog}: lake.catalog_auth = {self._place.auth!r} needs a "
                f"secret; put it into the variable {SECRET_VARIABLE} or a file and name that in "
                "lake.catalog_secret_file"
            )
        return secret


class ServedCatalog(RestCatalog):
    """A REST catalog with time-outs, and the questions that only we ask."""

    owns_metadata: Final = False
    """Metadata files are the server's: we neither name nor remove them."""

    def __init__(self, name: str, place: LakePlace, namespaces_prefix: str, **properties: str) -> None:
        self._shown = _Shown(place)
        self._namespaces_prefix = namespaces_prefix
        super().__init__(name, **properties)

    def _create_session(self) -> Session:
        session = super()._create_session()
        session.auth = AuthManagerAdapter(self._shown)
        for prefix, adapter in list(session.adapters.items()):
            session.mount(prefix, _Impatient(adapter))
        # We come with credentials of our own; making some for each table we load costs the server time.
        session.headers.pop("X-Iceberg-Access-Delegation", None)
        return session

    def _refresh_token(self) -> None:
        # Asked for once, before a request is repeated that was answered with 401.
        self._shown.forget()

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
    given = {**dict(place.properties()), **properties}
    if place.auth == "sigv4":
        given["rest.sigv4-enabled"] = "true"
    doing = f"opening the catalog {place.catalog}"
    with answering(doing, opening=True):
        try:
            catalog = ServedCatalog(name, place, namespaces_prefix, uri=place.catalog, **given)
            # Many answer for a warehouse they do not have until one looks into it.
            catalog.list_namespaces()
            return catalog
        except ModuleNotFoundError as error:
            raise Invalid(f"{doing}: {error}; run: pip install {error.name}") from error
        except NoSuchNamespaceError as error:
            raise Invalid(
                f'{doing}: {error}; name the warehouse it knows: lake.catalog_options = "warehouse=..."'
            ) from error
        except ValueError as error:
            # An answer that is not what the protocol says: something else listens there.
            raise Invalid(
                f"{doing}: what answers there speaks no Iceberg REST protocol; correct lake.catalog"
            ) from error
