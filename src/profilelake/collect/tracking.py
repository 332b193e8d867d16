"""The tracking API as one ASGI callable, thin because every event of every sender goes through it."""

import logging
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Awaitable
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from profilelake.collect import bodies
from profilelake.collect.answers import Answers, Refused
from profilelake.collect.limits import CollectLimits
from profilelake.collect.metrics import CollectMetrics
from profilelake.collect.peers import Peers
from profilelake.errors import Unavailable
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.ops.http import Application, Receive, Scope, Send
from profilelake.semantics.rules import EXTRACTION_VERSION
from profilelake.workspaces import Source
from profilelake.workspaces.keyring import KeyRing

_log = logging.getLogger(__name__)

AUTHORIZATIONS_MAX: Final = 4_096
"""Authorization headers whose source is remembered."""
AUTHORIZATION_BYTES_MAX: Final = 1_024
"""Bytes of an Authorization header that is looked at."""
SENT_AT_BYTES_MAX: Final = 64
"""Bytes of a SentAt header that is kept; a time is never longer."""

_KINDS: Final = {
    "identify": Kind.IDENTIFY,
    "track": Kind.TRACK,
    "page": Kind.PAGE,
    "screen": Kind.SCREEN,
    "group": Kind.GROUP,
    "alias": Kind.ALIAS,
    "batch": Kind.BATCH,
}
_CLIENT_METRICS: Final = "/v1/m"


def _routes() -> dict[str, tuple[str, Kind]]:
    routes: dict[str, tuple[str, Kind]] = {}
    for name, kind in _KINDS.items():
        for spelling in (name, name[0]):
            routes[f"/v1/{spelling}"] = routes[f"/v1/{spelling}/"] = (name, kind)
    routes["/v1/import"] = routes["/v1/import/"] = ("import", Kind.BATCH)
    return routes


_ROUTES: Final = _routes()


class Appender(Protocol):
    """The part of an event log that collect needs."""

    def append(self, entry: Entry) -> Awaitable[object]:
        """Return what is done once the entry is durable, and fails if it will not be.

        Raises:
            Unavailable: too much is waiting already, or the log cannot be written.
        """

    @property
    def trouble(self) -> str | None:
        """Why the log cannot be written at the moment; None if it can."""


class Tracking:
    """Answers `/v1/{identify,track,page,screen,group,alias,batch,import}`, their short forms, and `/v1/m`.

    200 is sent only after the log says that the events are durable. What is refused for good is
    only what can never be right: SDKs throw events away on 400 and 401. Everything that may pass
    gets 429 (too much at once) or 503 (the log or the keys cannot be reached), with Retry-After.
    Requests for any other path go to `otherwise`.
    """

    def __init__(
        self,
        appender: Appender,
        keys: KeyRing,
        limits: CollectLimits,
        registry: CollectorRegistry,
        otherwise: Application | None = None,
    ) -> None:
        """Append to `appender` what senders known to `keys` send."""
        self._appender = appender
        self._keys = keys
        self._limits = limits
        self._metrics = CollectMetrics(registry)
        self._otherwise = otherwise
        self._answers = Answers()
        self._peers = Peers(limits.trusted_proxies)
        self._authorized: dict[bytes, Source] = {}
        self._authorized_version = 0
        self._pending_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = _ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._elsewhere(scope, receive, send)
            return
        request = _Request(scope)
        try:
            if scope["method"] == "POST":
                await self._take(route[1], request, receive)
                answer = self._answers.ok(request.origin)
            elif scope["method"] == "OPTIONS":
                answer = self._answers.preflight(request.origin, request.requested_headers)
            else:
                raise Refused(405, "method_not_allowed", "method", "only POST and OPTIONS are answered here")
        except Refused as refusal:
            self._metrics.add_refused(refusal.reason)
            answer = self._answers.refused(refusal, request.origin)
        except _Disconnected:
            self._metrics.add_refused("disconnected")
            return
        except Exception:  # noqa: BLE001 - one request must not end the others, whatever is wrong
            # Not durable, so 500: SDKs send it again. The sender learns nothing of our insides.
            _log.exception("answering a request to the tracking API failed")
            self._metrics.add_refused("internal")
            answer = self._answers.refused(_internal(), request.origin)
        self._metrics.add_request(route[0], answer.start["status"])
        await send(answer.start)
        await send(answer.body)

    async def _take(self, kind: Kind, request: "_Request", receive: Receive) -> None:
        """Make the events of a request durable; raise `Refused` if they are not."""
        headers = request.headers
        source, key = self._header_source(headers.get(b"authorization"))
        if b"x-retry-count" in headers:
            self._metrics.add_retried()
        body = await self._read(headers, receive)
        checked = bodies.check(kind, body, headers.get(b"content-encoding", b""), self._limits)
        if source is None and key is None:
            key = checked.write_key
            if key is None:
                raise Refused(
                    401,
                    "invalid_write_key",
                    "missing_write_key",
                    "no write key: send it as the Basic user name or as `writeKey` in the body",
                )
            source = self._source_of(key)
        if source is None:
            self._metrics.add_dropped(checked.events)
        elif checked.events:
            await self._append(self._entry(source, kind, checked, request, body))
            self._metrics.add_events(source.id, checked.events)
            self._metrics.add_bytes(len(body))

    def _entry(
        self, source: Source, kind: Kind, checked: bodies.Checked, request: "_Request", body: bytes
    ) -> Entry:
        headers = request.headers
        ip = request.peer
        if self._peers.any_trusted:
            ip = self._peers.client(ip, b",".join(request.all(b"x-forwarded-for")))
        sent_at = headers.get(b"sentat", b"")
        return Entry(
            source.workspace,
            source.id,
            kind,
            checked.flags | Flags.BROWSER if b"origin" in headers else checked.flags,
            checked.events,
            EXTRACTION_VERSION,
            ip,
            sent_at.decode("latin-1") if len(sent_at) <= SENT_AT_BYTES_MAX else "",
            body,
        )

    async def _append(self, entry: Entry) -> None:
        try:
            durable = self._appender.append(entry)
        except Unavailable as error:
            if self._appender.trouble is not None:
                raise _not_stored(error) from error
            raise Refused(
                429,
                "too_many_requests",
                "log_queue_full",
                "more is waiting to be stored than may wait: send it again",
                retry_after=error.retry_after_seconds,
            ) from error
        try:
            await durable
        except Unavailable as error:
            raise _not_stored(error) from error

    def _header_source(self, authorization: bytes | None) -> tuple[Source | None, str | None]:
        """Return the source and key that an Authorization header names; None where it names none."""
        version = self._keys.poll()
        if authorization is None:
            return None, None
        if version != self._authorized_version:
            self._authorized.clear()
            self._authorized_version = version
        source = self._authorized.get(authorization)
        if source is not None:
            return source, None
        key = _basic_user(authorization)
        if key is None:
            return None, None
        source = self._source_of(key)
        if source is not None:
            if len(self._authorized) >= AUTHORIZATIONS_MAX:
                self._authorized.clear()
            self._authorized[authorization] = source
        return source, key

    def _source_of(self, key: str) -> Source | None:
        """Return the source of a key; None where the events of an unknown key are to be dropped."""
        try:
            source = self._keys.source(key)
        except Unavailable as error:
            # 401 would make the sender throw its events away, and the key may be a new one.
            raise Refused(
                503,
                "unavailable",
                "keys_unavailable",
                "the write key cannot be checked now: send it again",
                retry_after=error.retry_after_seconds,
            ) from error
        if source is not None and not source.disabled:
            return source
        if self._limits.unknown_key == "accept_and_drop":
            return None
        if source is None:
            raise Refused(401, "invalid_write_key", "unknown_write_key", "there is no such write key")
        raise Refused(401, "invalid_write_key", "source_disabled", "the source of this write key is disabled")

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the whole body, holding no more of it than the limit."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > self._limits.body_bytes_max:
                raise bodies.too_large(self._limits.body_bytes_max)
            return body
        limits = self._limits
        if int(headers.get(b"content-length", b"0")) > limits.discard_bytes_max:
            raise bodies.too_large(limits.body_bytes_max, close=True)
        pieces = []
        size = held = 0
        try:
            while True:
                size += len(body)
                if size <= limits.body_bytes_max:
                    pieces.append(body)
                    held += len(body)
                    self._pending_bytes += len(body)
                    if self._pending_bytes > limits.pending_bytes_max:
                        raise Refused(
                            429,
                            "too_many_requests",
                            "too_many_bodies",
                            "too many bodies are being read at the same time: send it again",
                            retry_after=1,
                        )
                elif size > limits.discard_bytes_max:
                    raise bodies.too_large(limits.body_bytes_max, close=True)
                if not message.get("more_body", False):
                    break
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Disconnected
                body = message.get("body", b"")
        finally:
            self._pending_bytes -= held
        if size > limits.body_bytes_max:
            raise bodies.too_large(limits.body_bytes_max)
        return b"".join(pieces)

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is not about events: the metrics of analytics.js, and other people's paths."""
        if scope["type"] == "http" and scope["path"] == _CLIENT_METRICS:
            request = _Request(scope)
            if scope["method"] == "OPTIONS":
                answer = self._answers.preflight(request.origin, request.requested_headers)
            else:
                answer = self._answers.ok(request.origin)
            self._metrics.add_request("client_metrics", answer.start["status"])
        elif self._otherwise is not None:
            await self._otherwise(scope, receive, send)
            return
        elif scope["type"] != "http":
            return
        else:
            request = _Request(scope)
            refusal = Refused(404, "not_found", "unknown_path", "there is nothing at this path")
            self._metrics.add_request("other", 404)
            answer = self._answers.refused(refusal, request.origin)
        await send(answer.start)
        await send(answer.body)


class _Disconnected(Exception):
    """The client went away before its request was whole."""


class _Request:
    """The headers of one request, each found by name."""

    __slots__ = ("_scope", "headers", "origin")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.origin = self.headers.get(b"origin", b"")

    @property
    def peer(self) -> str:
        client = self._scope["client"]
        return client[0] if client else ""

    @property
    def requested_headers(self) -> bytes:
        return self.headers.get(b"access-control-request-headers", b"")

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header that may be there several times, in order."""
        return [value for header, value in self._scope["headers"] if header == name]


def _basic_user(authorization: bytes) -> str | None:
    """Return the user name of Basic authentication, None where there is none.

    What follows the first colon is a password nobody needs. Some senders leave the colon out, and
    some the padding.
    """
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > AUTHORIZATION_BYTES_MAX:
        return None
    try:
        user = b64decode(encoded.strip().rstrip(b"=") + b"==").partition(b":")[0].decode()
    except (NotBase64, UnicodeDecodeError):
        return None
    return user or None


def _not_stored(error: Unavailable) -> Refused:
    return Refused(
        503,
        "unavailable",
        "log_not_writable",
        "the events could not be stored: send them again",
        retry_after=error.retry_after_seconds,
    )


def _internal() -> Refused:
    return Refused(
        500, "internal", "internal", "the events were not stored because of a fault of ours: send them again"
    )
