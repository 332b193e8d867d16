"""The tracking API as one ASGI callable, thin because every event of every sender goes through it."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry

from profilelake.collect import bodies
from profilelake.collect.answers import NO_STORE, Answers, Refused, wrong_method
from profilelake.collect.boot import BootDocuments
from profilelake.collect.bundles import Bundles
from profilelake.collect.endpoint import READING, WRITING, Endpoint, Stream
from profilelake.collect.limits import CollectLimits
from profilelake.collect.metrics import CollectMetrics
from profilelake.collect.peers import Peers
from profilelake.collect.pixel import Pixels
from profilelake.collect.quota import Quotas
from profilelake.collect.request import Request
from profilelake.collect.senders import Senders, missing_key
from profilelake.collect.suppress import Suppression
from profilelake.collect.waiting import Overdue, Waits
from profilelake.errors import Unavailable
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.ops.http import Answer, Application, Receive, Scope, Send, answer
from profilelake.semantics.rules import EXTRACTION_VERSION
from profilelake.workspaces import Source
from profilelake.workspaces.keyring import KeyRing

_log = logging.getLogger(__name__)

OVERDUE_RETRY_SECONDS: Final = 5
"""What senders are told whose events the log has not stored in time: it has more to catch up with."""
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
_BEACON: Final = "beacon"
"""The endpoint of senders that can set no header."""


def _routes() -> dict[str, tuple[str, Kind]]:
    routes: dict[str, tuple[str, Kind]] = {}
    for name, kind in _KINDS.items():
        for spelling in (name, name[0]):
            routes[f"/v1/{spelling}"] = routes[f"/v1/{spelling}/"] = (name, kind)
    routes["/v1/import"] = routes["/v1/import/"] = ("import", Kind.BATCH)
    routes["/beacon/v1/batch"] = routes["/beacon/v1/batch/"] = (_BEACON, Kind.BATCH)
    return routes


_ROUTES: Final = _routes()
_FROM_PAGE: Final = {flags: flags | Flags.BROWSER for flags in map(Flags, range(Flags.SUPPRESSED))}
"""Adding a flag to flags takes two microseconds, a fifth of all that a request costs here."""
_BEGINNINGS: Final = ("/v1/projects/", "/analytics.js/v1/", "/analytics-next/bundles/", "/rudder/")
"""Endpoints that answer every path below theirs."""


class Appender(Protocol):
    """The part of an event log that collect needs."""

    def append(self, entry: Entry) -> asyncio.Future[Any]:
        """Return what is done once the entry is durable, and fails if it will not be.

        Raises:
            Unavailable: too much is waiting already, or the log cannot be written.
        """

    @property
    def trouble(self) -> str | None:
        """Why the log cannot be written at the moment; None if it can."""


class Tracking:
    """Answers `/v1/{identify,track,page,screen,group,alias,batch,import}`, their short forms, and the rest.

    200 is sent only after the log says that the events are durable. What is refused for good is
    only what can never be right: SDKs throw events away on 400 and 401. Everything that may pass
    gets 429 (too much at once) or 503 (the log or the keys cannot be reached), with Retry-After.
    503 does not say that the events are not stored: the log may be late and store them after the
    answer. They come again under the same message ids then, and count once.

    The rest: pixels, what browsers load before they send, and the looks of load balancers, each in
    a module of its own. Requests for any other path go to `otherwise`.
    """

    def __init__(
        self,
        appender: Appender,
        keys: KeyRing,
        limits: CollectLimits,
        registry: CollectorRegistry,
        otherwise: Application | None = None,
        *,
        suppression: Suppression | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Append to `appender` what senders known to `keys` send. `monotonic` counts seconds."""
        self._appender = appender
        self._limits = limits
        self._metrics = CollectMetrics(registry)
        self._otherwise = otherwise
        self._answers = Answers()
        self._peers = Peers(limits.trusted_proxies)
        self._senders = Senders(keys, limits.unknown_key)
        self._quotas = Quotas(processes=limits.processes, monotonic=monotonic)
        self._waits = Waits(limits.answer_seconds_max)
        self._suppression = suppression
        self._pending_bytes = 0
        pixels = Pixels(self._store, self._senders, limits, self._metrics, monotonic)
        boot = BootDocuments(self._senders, self._peers, limits.public_url)
        bundles = Bundles(limits.browser_bundles, self._senders)
        self._endpoints = _health() | self._client_metrics() | pixels.endpoints()
        self._endpoints |= boot.endpoints() | bundles.endpoints()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = _ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._elsewhere(scope, receive, send)
            return
        request = Request(scope)
        try:
            if scope["method"] == "POST":
                await self._take(route, request, receive)
                answer = self._answers.ok(request.origin)
            elif scope["method"] == "OPTIONS":
                answer = self._answers.preflight(request.origin, request.requested_headers)
            else:
                raise wrong_method(WRITING)
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

    async def _take(self, route: tuple[str, Kind], request: Request, receive: Receive) -> None:
        """Make the events of a request durable; raise `Refused` if they are not."""
        endpoint, kind = route
        headers = request.headers
        source, key = self._senders.of_header(headers.get(b"authorization"))
        if b"x-retry-count" in headers or b"rsa-retry-attempt" in headers:
            self._metrics.add_retried()
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            body = await self._read_on(body, headers, receive)
        elif len(body) > self._limits.body_bytes_max:
            raise bodies.too_large(self._limits.body_bytes_max)
        checked = bodies.check(kind, body, headers.get(b"content-encoding", b""), self._limits)
        if source is None and key is None:
            key = (request.query_key() if endpoint == _BEACON else None) or checked.write_key
            if key is None:
                raise missing_key("as the Basic user name or as `writeKey` in the body")
            source = self._senders.of_key(key)
        if source is None:
            self._metrics.add_dropped(checked.events)
        elif checked.events:
            await self._store(source, kind, checked, request, body)

    async def _store(
        self, source: Source, kind: Kind, checked: bodies.Checked, request: Request, body: bytes
    ) -> None:
        """Make events durable, be it from a post, a beacon or a pixel; raise `Refused` if they are not."""
        limited = source.events_per_second > 0
        if limited:
            self._take_quota(source, checked.events)
        suppressed = 0
        try:
            entry = self._entry(source, kind, checked, request, body)
            if self._suppression is not None:
                entry, suppressed = self._suppression.withhold(entry)
            try:
                durable = self._appender.append(entry)
            except Unavailable as error:
                raise self._not_taken(error) from error
            try:
                await self._waits.within_limit(durable)
            except Unavailable as error:
                raise _not_stored(error) from error
            except Overdue as error:
                raise self._overdue() from error
        except BaseException:
            # Whatever it was, nothing was stored, so the source has not sent it.
            if limited:
                self._quotas.give_back(source, checked.events)
            raise
        self._metrics.add_events(source.id, checked.events)
        self._metrics.add_bytes(len(entry.body))
        if suppressed:
            self._metrics.add_suppressed(suppressed)

    def _take_quota(self, source: Source, events: int) -> None:
        try:
            self._quotas.take(source, events)
        except Refused:
            self._metrics.add_over_quota(source.id, events)
            raise

    def _entry(
        self, source: Source, kind: Kind, checked: bodies.Checked, request: Request, body: bytes
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
            _FROM_PAGE[checked.flags] if b"origin" in headers else checked.flags,
            checked.events,
            EXTRACTION_VERSION,
            ip,
            sent_at.decode("latin-1") if len(sent_at) <= SENT_AT_BYTES_MAX else "",
            body,
        )

    def _not_taken(self, error: Unavailable) -> Refused:
        if self._appender.trouble is not None:
            return _not_stored(error)
        return Refused(
            429,
            "too_many_requests",
            "log_queue_full",
            "more is waiting to be stored than may wait: send it again",
            retry_after=error.retry_after_seconds,
        )

    def _overdue(self) -> Refused:
        return Refused(
            503,
            "unavailable",
            "not_durable_in_time",
            f"the log has not made the events durable within {self._limits.answer_seconds_max:g} s: send"
            " them again; should it store these too, their message ids make them count once",
            retry_after=OVERDUE_RETRY_SECONDS,
        )

    async def _read_on(self, body: bytes, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the whole of a body that comes in pieces, `body` being the first; hold no more than allowed."""
        limits = self._limits
        if int(headers.get(b"content-length", b"0")) > limits.discard_bytes_max:
            raise bodies.too_large(limits.body_bytes_max, close=True)
        pieces = []
        size = held = 0
        more = True
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
                if not more:
                    break
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Disconnected
                body = message.get("body", b"")
                more = message.get("more_body", False)
        finally:
            self._pending_bytes -= held
        if size > limits.body_bytes_max:
            raise bodies.too_large(limits.body_bytes_max)
        return b"".join(pieces)

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what brings no events in a body, and hand on other people's paths."""
        endpoint = self._endpoint(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None and self._otherwise is not None:
            await self._otherwise(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope)
        method = request.method
        reply: Answer | Stream
        try:
            if endpoint is None:
                raise Refused(404, "not_found", "unknown_path", "there is nothing at this path")
            if method == "OPTIONS":
                reply = self._answers.preflight(request.origin, request.requested_headers)
            elif endpoint.allows(method):
                reply = await endpoint.answer(request)
            else:
                raise wrong_method(endpoint.allowed)
        except Refused as refusal:
            self._metrics.add_refused(refusal.reason)
            reply = self._answers.refused(refusal, request.origin)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("answering %s failed", "other" if endpoint is None else endpoint.name)
            self._metrics.add_refused("internal")
            reply = self._answers.refused(_internal(), request.origin)
        self._metrics.add_request("other" if endpoint is None else endpoint.name, reply.start["status"])
        if isinstance(reply, Answer):
            await send(reply.start)
            await send(reply.body)
        else:
            await reply.send(send, with_body=method != "HEAD")

    def _endpoint(self, path: str) -> Endpoint | None:
        endpoint = self._endpoints.get(path) or self._endpoints.get(path.removesuffix("/"))
        if endpoint is None and path.startswith(_BEGINNINGS):
            endpoint = next(self._endpoints[start] for start in _BEGINNINGS if path.startswith(start))
        return endpoint

    def _client_metrics(self) -> dict[str, Endpoint]:
        """Return what answers the metrics of analytics.js, which nobody here has a use for."""

        async def discard(request: Request) -> Answer:
            return self._answers.ok(request.origin)

        return {"/v1/m": Endpoint("client_metrics", WRITING, discard)}


class _Disconnected(Exception):
    """The client went away before its request was whole."""


def _health() -> dict[str, Endpoint]:
    """Return what answers load balancers: that this process does. Whether it is ready, `/readyz` says."""
    up = answer(200, [NO_STORE], b"ok\n", b"text/plain")

    async def say_up(_: Request) -> Answer:
        return up

    endpoint = Endpoint("health", READING, say_up)
    return {"/": endpoint, "/health": endpoint}


def _not_stored(error: Unavailable) -> Refused:
    return Refused(
        503,
        "unavailable",
        "log_not_writable",
        "the events could not be stored: send them again",
        retry_after=error.retry_after_seconds,
    )


def _internal() -> Refused:
    return Refused(500, "internal", "internal", "a fault of ours; nothing was stored: send it again")
