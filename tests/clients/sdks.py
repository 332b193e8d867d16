"""The real SDKs behind one interface: `with sdk.sending(url) as send: send(calls)`.

A call is a message as the tracking API spells it. Each SDK is given it through its own methods; what
it then does is its own business, and the server's.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from chromium import HERE, Page
from served import WRITE_KEY

SEND_SECONDS_MAX = 120
Call = dict[str, Any]
Send = Callable[[Sequence[Call]], None]
Fixture = Callable[[str], Any]
TYPES = ("identify", "track", "page", "screen", "group", "alias")


class Sending(Protocol):
    """Starts an SDK that sends to `url`; options go to the SDK as they are."""

    def __call__(self, url: str, **options: Any) -> AbstractContextManager[Send]: ...


@dataclass(frozen=True)
class Sdk:
    """One SDK, as its users set it up."""

    name: str
    library: str
    sending: Sending
    types: tuple[str, ...] = TYPES
    """The types of call it has."""
    waits: bool = True
    """Whether it waits as long as Retry-After says."""
    patience: dict[str, Any] = field(default_factory=dict)
    """Options with which it tries for as long as a server may take to start again."""


@contextmanager
def _program(command: list[str], sdk: str, fixed: dict[str, Any], url: str, **options: Any) -> Iterator[Send]:
    """Run a program for each bundle of calls; it ends when the SDK says that all is delivered."""

    def send(calls: Sequence[Call]) -> None:
        job = {"sdk": sdk, "url": url, "key": WRITE_KEY, "options": fixed | options, "calls": calls}
        job |= {"modules": command[-1], "secondsMax": SEND_SECONDS_MAX}
        ended = subprocess.run(
            command,
            input=json.dumps(job),
            text=True,
            capture_output=True,
            timeout=SEND_SECONDS_MAX,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout.splitlines()[-1]) == {"errors": []}, ended.stderr

    yield send


@contextmanager
def opened(fixture: Fixture, name: str) -> Iterator[Page]:
    """Open a page of the shop, and close it at the end."""
    page = fixture("browser").open(f"{fixture('pages')}/{name}")
    try:
        yield page
    finally:
        page.close()


@contextmanager
def analytics_js(fixture: Fixture, url: str, key: str = WRITE_KEY, **options: Any) -> Iterator[Page]:
    """Open a page with analytics.js that knows nothing but where our server is."""
    with opened(fixture, "analytics_js.html") as page:
        page.run("start", {"key": key, "settings": {"cdnURL": url}, "options": options})
        yield page


@contextmanager
def rudder_js(fixture: Fixture, url: str, key: str = WRITE_KEY, **options: Any) -> Iterator[Page]:
    """Open a page with RudderStack's SDK for browsers."""
    with opened(fixture, "rudder_js.html") as page:
        page.run("start", {"key": key, "url": url, "options": {"configUrl": url} | options})
        yield page


def _segment_python(name: str, _: Fixture, **options: Any) -> Sdk:
    command = [sys.executable, str(HERE / "send.py")]
    return Sdk(name, "analytics-python", partial(_program, command, "segment", options))


def _segment_node(name: str, fixture: Fixture, **options: Any) -> Sdk:
    command = ["node", str(HERE / "send.mjs"), str(fixture("modules"))]
    return Sdk(name, "@segment/analytics-node", partial(_program, command, "segment", options))


def _rudder_python(name: str, fixture: Fixture, **options: Any) -> Sdk:
    """Does not read Retry-After."""
    command = [str(fixture("rudder_python")), str(HERE / "send.py")]
    return Sdk(name, "analytics-python", partial(_program, command, "rudder", options), waits=False)


def _rudder_node(name: str, fixture: Fixture, **options: Any) -> Sdk:
    """Gives up after three retries within two seconds, if it is not told otherwise."""
    command = ["node", str(HERE / "send.mjs"), str(fixture("modules"))]
    sending = partial(_program, command, "rudder", options)
    return Sdk(name, "analytics-node", sending, patience={"retryCount": 10})


def _analytics_js(name: str, fixture: Fixture, **options: Any) -> Sdk:
    return Sdk(name, "analytics.js", partial(_on_page, analytics_js, fixture, options))


def _rudder_js(name: str, fixture: Fixture, **options: Any) -> Sdk:
    """Has no `screen`, and does not read Retry-After."""
    types = tuple(type for type in TYPES if type != "screen")
    sending = partial(_on_page, rudder_js, fixture, options)
    return Sdk(name, "RudderLabs JavaScript SDK", sending, types, waits=False)


@contextmanager
def _on_page(
    sdk: Callable[..., AbstractContextManager[Page]],
    fixture: Fixture,
    fixed: dict[str, Any],
    url: str,
    **options: Any,
) -> Iterator[Send]:
    with sdk(fixture, url, **fixed, **options) as page:
        yield partial(page.run, "send")


def batching(*, milliseconds: int) -> dict[str, Any]:
    """Return options with which analytics.js sends batches."""
    strategy = {"strategy": "batching", "config": {"timeout": milliseconds}}
    return {"integrations": {"Segment.io": {"deliveryStrategy": strategy}}}


def beacon(*, milliseconds: int) -> dict[str, Any]:
    """Return options with which RudderStack's SDK for browsers sends beacons."""
    return {"useBeacon": True, "beaconQueueOptions": {"flushQueueInterval": milliseconds}}


_MAKERS: dict[str, Callable[[str, Fixture], Sdk]] = {
    "segment-python": _segment_python,
    "segment-python-gzip": partial(_segment_python, gzip=True),
    "segment-node": _segment_node,
    "rudder-python": _rudder_python,
    "rudder-node": _rudder_node,
    "rudder-node-plain": partial(_rudder_node, gzip=False),
    "analytics-js": _analytics_js,
    "analytics-js-batching": partial(_analytics_js, **batching(milliseconds=300)),
    "rudder-js": _rudder_js,
    "rudder-js-beacon": partial(_rudder_js, **beacon(milliseconds=300)),
}
SDKS = ("segment-python", "segment-node", "rudder-python", "rudder-node", "analytics-js", "rudder-js")
WAYS = tuple(_MAKERS)
"""The SDKs, and the ways of sending that can be switched on in them."""


def made(name: str, fixture: Fixture) -> Sdk:
    """Return an SDK by name; `fixture` returns what it needs, installed."""
    return _MAKERS[name](name, fixture)
