"""One request to a receiver, and what its answer means."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

import httpx

import profilelake
from profilelake.activate import packing, signing
from profilelake.activate.addresses import Allowed, Refused, Resolve
from profilelake.activate.letters import Sent
from profilelake.errors import Invalid, NotFound
from profilelake.ops.clock import Clock
from profilelake.semantics.destinations import Destination

ANSWER_BYTES_MAX: Final = 65_536
"""Bytes of an answer that are read; nothing in it is needed."""
RETRY_AFTER_SECONDS_MAX: Final = 3_600.0
"""A receiver that asks for more is asked again then."""
RESOLVED_SECONDS: Final = 30
"""How long an address that was looked at is used again, as long as it answers."""
_BATCH_PATH: Final = "/v1/batch"
_TOO_MUCH: Final = frozenset({400, 413, 422})
"""Answers about what was sent: the same request would get them again."""


class Verdict(Enum):
    """What becomes of records that were sent."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """The receiver does not take them; of several perhaps only one."""
    LATER = "later"
    GONE = "gone"
    """It wants nothing of us any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request; `reason` has nothing of what was sent or answered but the status."""

    verdict: Verdict
    status: int = 0
    reason: str = ""
    retry_after_seconds: float = 0.0


class Receiver:
    """Sends the batches of one destination over connections that are kept open. For one event loop."""

    def __init__(
        self,
        destination: Destination,
        secret: Callable[[str], str],
        *,
        allowed: Allowed,
        resolve: Resolve,
        clock: Clock,
        connect_seconds: float,
        answer_seconds: float,
    ) -> None:
        """`secret` gives what a name of a secret stands for.

        Raises:
            Invalid: nobody can be reached by this URL.
        """
        self._destination = destination
        self._secret = secret
        self._allowed = allowed
        self._resolve = resolve
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._address, self._resolved_at = "", 0
        url = destination.url
        if destination.type == "segment" and urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + _BATCH_PATH
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise Invalid(f"reading the URL of destination {destination.name}: {error}; change it") from error
        # As it goes over the wire: the readable form of `xn--` is for people, and not every such name has one.
        self._host = self._url.raw_host.decode("ascii")
        # No proxy and no login of the environment: both would be somebody else's idea of where this goes.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(answer_seconds, connect=connect_seconds),
            limits=httpx.Limits(
                max_connections=destination.parallel, max_keepalive_connections=destination.parallel
            ),
            trust_env=False,
            follow_redirects=False,
        )

    async def send(self, records: Sequence[Sent]) -> Outcome:
        """Send records in one request and return what comes of it; no error of the network is raised."""
        key = packing.batch_key(self._destination.name, records)
        body = packing.body(self._destination, key, records)
        try:
            async with asyncio.timeout(self._answer_seconds):
                request = await self._request(key, body)
                answer = await self._http.send(request, stream=True)
                try:
                    await _read(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            self._address = ""
            return Outcome(Verdict.LATER, 0, f"no answer in {self._answer_seconds:g} s")
        except httpx.HTTPError as error:
            self._address = ""
            return Outcome(Verdict.LATER, 0, f"{type(error).__name__}: the connection failed")
        except OSError as error:
            return Outcome(
                Verdict.LATER, 0, f"the name of the receiver is not found: {error.strerror or 'no answer'}"
            )
        except (Refused, NotFound) as error:
            return Outcome(Verdict.LATER, 0, str(error))
        return _meaning(answer.status_code, answer.headers, self._clock())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _request(self, key: str, body: bytes) -> httpx.Request:
        secrets = self._secrets()
        address = await self._chosen()
        headers = {
            **dict(self._destination.headers),
            "Host": self._url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": f"profilelake/{profilelake.__version__}",
            "Idempotency-Key": key,
        }
        if self._destination.type == "segment":
            headers["Authorization"] = "Basic " + base64.b64encode(f"{secrets[0]}:".encode()).decode()
        else:
            headers |= signing.headers(key, self._clock() // 1_000_000, body, secrets)
        return self._http.build_request(
            "POST",
            self._url.copy_with(host=address),
            content=body,
            headers=headers,
            # The certificate must be that of the name, though the connection goes to the address.
            extensions={"sni_hostname": self._host},
        )

    async def _chosen(self) -> str:
        now = self._clock()
        if not self._address or now - self._resolved_at >= RESOLVED_SECONDS * 1_000_000:
            secure = self._url.scheme == "https"
            addresses = await self._resolve(self._host, self._url.port or (443 if secure else 80))
            self._address, self._resolved_at = self._allowed.choose(addresses, secure=secure), now
        return self._address

    def _secrets(self) -> list[str]:
        names = [self._destination.secret, self._destination.previous_secret]
        return [self._secret(name) for name in names if name]


async def _read(answer: httpx.Response) -> None:
    """Read an answer to its end, so that the connection can be used again; give up on one that does not end."""
    size = 0
    async for piece in answer.aiter_raw():
        size += len(piece)
        if size > ANSWER_BYTES_MAX:
            return


def _meaning(status: int, headers: Mapping[str, str], now: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(Verdict.DELIVERED, status)
    reason = f"the receiver answered {status}"
    if status in _TOO_MUCH:
        return Outcome(Verdict.REFUSED, status, reason)
    if status == httpx.codes.GONE:
        return Outcome(Verdict.GONE, status, f"{reason}: it is not there any more")
    if 300 <= status < 400:
        reason += ", a redirect; redirects are not followed, give the URL it leads to"
    elif status in (401, 403):
        reason += "; see that the secret is the one it knows"
    elif status in (404, 405):
        reason += "; see that the URL is right"
    return Outcome(Verdict.LATER, status, reason, _retry_after(headers.get("retry-after", ""), now))


def _retry_after(text: str, now: int) -> float:
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_SECONDS_MAX)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max(0.0, min(at.timestamp() - now / 1_000_000, RETRY_AFTER_SECONDS_MAX))
