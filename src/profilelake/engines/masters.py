"""Where Spark may run, as URLs name it."""

import re
from dataclasses import dataclass
from typing import Final

from profilelake.errors import Invalid

_LOCAL: Final = re.compile(r"local(?:\[(?P<tasks>\d+|\*)(?:,\s*(?P<tries>\d+))?\])?")
_SPARK: Final = re.compile(r"spark://(?P<places>[^/;,\s@]+:\d+(?:,[^/;,\s@]+:\d+)*)")
_CONNECT: Final = re.compile(
    r"sc://(?P<host>\[[^\]]+\]|[^/:;\s@]+)(?::(?P<port>\d+))?(?:/(?:;(?P<parameters>\S*))?)?"
)
_KUBERNETES: Final = re.compile(
    r"k8s://(?:(?P<scheme>https?)://)?(?P<host>\[[^\]]+\]|[^/:\s@]+)(?::(?P<port>\d+))?/?"
)

CONNECT_PORT: Final = 15002
TRIES: Final = 4
"""How often a task is tried before its step fails."""


@dataclass(frozen=True, slots=True)
class Master:
    """A place where Spark runs. `kind` is local, standalone, connect, kubernetes, yarn or submitted."""

    kind: str
    url: str
    """What Spark is given; may hold a token, so it is not shown."""
    shown: str
    places: tuple[tuple[str, int], ...] = ()
    """Hosts and ports, one of which must answer."""

    @property
    def elsewhere(self) -> bool:
        """Tell whether tasks run on other machines, which do not see files of this one."""
        return self.kind != "local"


def master_of(url: str) -> Master:
    """Return what a URL names. Raises Invalid for one that Spark would not take either, or after a long wait."""
    if found := _LOCAL.fullmatch(url):
        # Spark tries a task of a local master once, unless told otherwise.
        tasks = found["tasks"] or "1"
        return Master("local", f"local[{tasks},{found['tries'] or TRIES}]", url)
    if found := _SPARK.fullmatch(url):
        places = tuple(_place(place, 7077) for place in found["places"].split(","))
        return Master("standalone", url, url, places)
    if found := _CONNECT.fullmatch(url):
        host, port = found["host"].strip("[]"), int(found["port"] or CONNECT_PORT)
        return Master("connect", url, f"sc://{found['host']}:{port}", ((host, port),))
    if found := _KUBERNETES.fullmatch(url):
        port = int(found["port"] or (80 if found["scheme"] == "http" else 443))
        return Master("kubernetes", url, url, ((found["host"].strip("[]"), port),))
    if url in ("yarn", "submitted"):
        return Master(url, url, url)
    scheme = url.partition("://")[0] if "://" in url else url
    raise Invalid(
        f"engine {scheme[:40]!r}: no such engine; give embedded, local[2], spark://HOST:7077, k8s://https://HOST:6443, "
        "yarn, sc://HOST:15002 or submitted"
    )


def _place(text: str, port: int) -> tuple[str, int]:
    host, _, number = text.rpartition(":")
    return (host.strip("[]"), int(number)) if host else (text, port)
