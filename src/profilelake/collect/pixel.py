"""Pixels: an event in the query of an image that a mail or a page shows.

The answer is always the same image, since whoever asks for it can neither read an error nor send
again. So what goes wrong is for the operator: refusals are counted by reason, and what is lost by a
fault of ours is counted apart and logged.
"""

import json
import logging
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from profilelake.collect import bodies
from profilelake.collect.answers import NO_STORE, Refused, cross_origin, invalid
from profilelake.collect.bodies import Checked
from profilelake.collect.endpoint import READING, Endpoint
from profilelake.collect.limits import CollectLimits
from profilelake.collect.metrics import CollectMetrics
from profilelake.collect.request import Request
from profilelake.collect.senders import Senders, missing_key
from profilelake.eventlog import Flags, Kind
from profilelake.ops.http import Answer, answer
from profilelake.workspaces import Source

_log = logging.getLogger(__name__)

Store: TypeAlias = Callable[[Source, Kind, Checked, Request, bytes], Awaitable[None]]
"""Makes an event durable; raises `Refused` if it is not."""

LEVELS_MAX: Final = 20
"""Levels that the dots of one name open."""
TELL_SECONDS: Final = 10.0
"""How often lost pixels are logged at most; all are counted."""

_IMAGE: Final = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"  # 1 x 1, two colours
    b"\x21\xf9\x04\x01\x00\x00\x00\x00"  # the first of them is transparent
    b"\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b"
)
_OURS: Final = frozenset(
    {"log_queue_full", "log_not_writable", "not_durable_in_time", "keys_unavailable", "internal"}
)
"""Reasons that no sender can do anything about."""
_URL_SAFE: Final = str.maketrans({"-": "+", "_": "/", " ": "+", "\r": None, "\n": None})


class Pixels:
    """Answers `GET /v1/pixel/{identify,track,page,screen,group,alias}` and `GET /pixel/v1/{track,page}`."""

    def __init__(
        self,
        store: Store,
        senders: Senders,
        limits: CollectLimits,
        metrics: CollectMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        """Hand the events of `senders` to `store`."""
        self._store = store
        self._senders = senders
        self._limits = limits
        self._metrics = metrics
        self._monotonic = monotonic
        self._lost = 0
        self._told_at = float("-inf")
        headers = [*cross_origin(b""), NO_STORE, (b"cross-origin-resource-policy", b"cross-origin")]
        self._answer = answer(200, headers, _IMAGE, b"image/gif")

    def endpoints(self) -> dict[str, Endpoint]:
        """Return what answers each path."""
        kinds = (Kind.IDENTIFY, Kind.TRACK, Kind.PAGE, Kind.SCREEN, Kind.GROUP, Kind.ALIAS)
        kind_of = {f"/v1/pixel/{kind.name.lower()}": kind for kind in kinds}
        kind_of |= {"/pixel/v1/track": Kind.TRACK, "/pixel/v1/page": Kind.PAGE}
        return {path: Endpoint("pixel", READING, partial(self._show, kind)) for path, kind in kind_of.items()}

    async def _show(self, kind: Kind, request: Request) -> Answer:
        # Scanners look at images by HEAD before anybody sees them.
        if request.method == "GET":
            try:
                await self._keep(kind, request)
            except Refused as refusal:
                self._metrics.add_refused(refusal.reason)
                if refusal.reason in _OURS:
                    self._lose(refusal.reason)
            except Exception as error:  # noqa: BLE001 - whatever is wrong, the answer is the image
                self._metrics.add_refused("internal")
                self._lose("a fault in this program", error)
        return self._answer

    async def _keep(self, kind: Kind, request: Request) -> None:
        fields = request.query()
        data = next((value for name, value in fields if name == "data" and value), None)
        body = _from_fields(fields) if data is None else _from_data(data)
        checked = bodies.check(kind, body, b"", self._limits)
        key = request.query_key() or checked.write_key
        if key is None:
            raise missing_key("as `writeKey` in the query or in `data`")
        source = self._senders.of_key(key)
        if source is None:
            self._metrics.add_dropped(checked.events)
            return
        # Only mail programs and browsers show images, so the address is that of a person's device or of
        # the proxy that fetches images for it.
        await self._store(source, kind, checked._replace(flags=checked.flags | Flags.BROWSER), request, body)

    def _lose(self, reason: str, error: Exception | None = None) -> None:
        self._metrics.add_lost_pixel()
        self._lost += 1
        now = self._monotonic()
        if now - self._told_at >= TELL_SECONDS:
            lost = "%d pixels were not stored, or perhaps not, the last because of %s"
            _log.error(lost, self._lost, reason, exc_info=error)
            self._lost = 0
            self._told_at = now


def _from_data(data: str) -> bytes:
    """Return the JSON in base64 of either alphabet; a plus that the query made a space is put back."""
    text = data.translate(_URL_SAFE).rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise invalid("invalid_base64", "`data` is not base64 of a JSON object") from error


def _from_fields(fields: Sequence[tuple[str, str]]) -> bytes:
    """Return the message that fields say, a dot in a name opening an object.

    All values are text. As in JSON the last word counts, also where one name is a value and an object.
    """
    message: dict[str, Any] = {}
    for name, value in fields:
        if name in {"writeKey", "data"}:
            continue
        steps = name.split(".")
        if len(steps) > LEVELS_MAX:
            raise invalid("nested_too_deeply", f"a name in the query has more than {LEVELS_MAX} levels")
        place = message
        # A name such as `a..b` or `.a` means no nesting that anybody could name.
        for step in steps[:-1] if all(steps) else ():
            below = place.get(step)
            if not isinstance(below, dict):
                below = place[step] = {}
            place = below
        place[steps[-1] if all(steps) else name] = value
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
