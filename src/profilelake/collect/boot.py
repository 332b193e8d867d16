"""The documents that browser SDKs load before they send: where to, and that they may.

Both are public, as write keys are. analytics.js and the mobile SDKs read `settings`, RudderStack's
browser SDK reads `sourceConfig`.
"""

import hashlib
import json
import re
from typing import Final
from urllib.parse import urlsplit

from profilelake.collect.answers import Refused, cross_origin, invalid
from profilelake.collect.endpoint import READING, Endpoint
from profilelake.collect.peers import Peers
from profilelake.collect.request import Request
from profilelake.collect.senders import Senders, basic_user, missing_key
from profilelake.ops.http import Answer, answer
from profilelake.workspaces import Source

FRESH_SECONDS: Final = 120
"""How long a browser or cache may use a document without asking again."""
HOST_CHARACTERS_MAX: Final = 255

_PROJECTS: Final = "/v1/projects/"
_SETTINGS: Final = "/settings"
_NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(
    rf"(?:{_NAME}(?:\.{_NAME})*\.?|\[[0-9A-Fa-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?", re.ASCII
)
_NEVER_CHANGED: Final = "1970-01-01T00:00:00.000Z"
_JSON: Final = b"application/json"


class BootDocuments:
    """Answers `GET /v1/projects/{writeKey}/settings` and `GET /sourceConfig/`.

    An SDK that gets 404 sends nothing until its page is loaded again, so that is only for keys that
    certainly do not exist; one that cannot be judged gets 503. For a disabled source the two SDKs
    differ: RudderStack's reads `enabled` and stays quiet, which is what it has that field for.
    analytics.js knows no such thing, and without settings it never finishes loading, so code of the
    page that waits for a call would wait for ever: it gets its settings, and its events get 401.
    """

    def __init__(self, senders: Senders, peers: Peers, public_url: str) -> None:
        """Send browsers to `public_url`; where it is "", to the host they asked."""
        self._senders = senders
        self._peers = peers
        self._public_url = public_url

    def endpoints(self) -> dict[str, Endpoint]:
        """Return what answers each path; `/v1/projects/` stands for all that begin with it."""
        return {
            _PROJECTS: Endpoint("settings", READING, self._settings),
            "/sourceConfig": Endpoint("source_config", READING, self._source_config),
        }

    async def _settings(self, request: Request) -> Answer:
        key = request.path.removesuffix("/").removeprefix(_PROJECTS).removesuffix(_SETTINGS)
        if not key or not request.path.removesuffix("/").endswith(_SETTINGS):
            raise Refused(404, "not_found", "unknown_path", "there is nothing at this path")
        self._source(key)
        protocol, host = self._address(request)
        # A second integration would make analytics.js load the bundle of its older destinations, and
        # without this one it would send to its maker.
        integration = {"apiKey": key, "apiHost": f"{host}/v1", "protocol": protocol}
        document = {"integrations": {"Segment.io": integration}, "metrics": {"sampleRate": 0}}
        return _document(request, document, b"public", b"Origin")

    async def _source_config(self, request: Request) -> Answer:
        authorization = request.headers.get(b"authorization")
        key = (basic_user(authorization) if authorization else None) or request.query_key()
        if key is None:
            raise missing_key("as the Basic user name or as `writeKey` in the query")
        source = self._source(key)
        quiet = {"enabled": False}
        document = {
            "source": {
                "id": source.id,
                # Not its name, which is the operator's own and would be shown to everybody.
                "name": source.id,
                "writeKey": key,
                "enabled": not source.disabled,
                "workspaceId": source.workspace,
                "connections": [],
                "destinations": [],
                "config": {"statsCollection": {"errors": quiet, "metrics": quiet}},
                # None: the page names the data plane when it loads the SDK.
                "dataplanes": {},
            },
            "updatedAt": _NEVER_CHANGED,
        }
        return _document(request, document, b"private", b"Origin, Authorization")

    def _source(self, key: str) -> Source:
        source = self._senders.known(key)
        if source is None:
            raise Refused(404, "not_found", "unknown_write_key", "there is no such write key")
        return source

    def _address(self, request: Request) -> tuple[str, str]:
        """Return protocol and host, with port and path where there are, that events are sent to."""
        if self._public_url:
            url = urlsplit(self._public_url)
            return url.scheme, url.netloc + url.path.rstrip("/")
        hosts = request.all(b"host")
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        # Browsers will believe it, and caches may keep it for others.
        if len(host) > HOST_CHARACTERS_MAX or not _HOST.fullmatch(host):
            raise invalid("invalid_host", "the Host header names no host: set http.public_url on the server")
        forwarded = request.headers.get(b"x-forwarded-proto", b"")
        # Of several words the last is that of the proxy that we trust.
        secure = forwarded.rpartition(b",")[2].strip().lower() == b"https" and self._peers.trusts(
            request.peer
        )
        return "https" if secure else "http", host


def _document(request: Request, document: object, scope: bytes, vary: bytes) -> Answer:
    body = json.dumps(document, separators=(",", ":")).encode()
    tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
    headers = [
        *cross_origin(request.origin),
        (b"cache-control", b"%s, max-age=%d" % (scope, FRESH_SECONDS)),
        (b"etag", tag),
        (b"vary", vary),
        (b"x-content-type-options", b"nosniff"),
    ]
    if matches(request, tag):
        return answer(304, headers, b"", _JSON)
    return answer(200, headers, body, _JSON)


def matches(request: Request, tag: bytes) -> bool:
    """Return whether the client says that it has what `tag` names."""
    known = b",".join(request.all(b"if-none-match"))
    return any(one.strip().removeprefix(b"W/") in {tag, b"*"} for one in known.split(b","))
