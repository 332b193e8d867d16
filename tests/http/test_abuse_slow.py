"""Attacks on the server users run, on every part of it: a clear answer or an end, and nobody else notices."""

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from served import ADMIN_TOKEN, READ_TOKEN, WRITE_KEY, Served, basic, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KIB = 1024
ANSWER_SECONDS_MAX = 30
HEADER_SECONDS = 10
"""What the server grants for headers; closing may take a second more."""
SLOW_CONNECTIONS = 300
TRACK = b'{"userId":"abuse","event":"Sent"}'
WRITE = f"Authorization: {basic(WRITE_KEY)}\r\n".encode()
ADMIN = f"Authorization: Bearer {ADMIN_TOKEN}\r\n".encode()
READ = f"Authorization: Bearer {READ_TOKEN}\r\n".encode()
PLACES = {
    "tracking": b"POST /v1/track HTTP/1.1\r\nHost: x\r\n" + WRITE,
    "management": b"POST /api/sources HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + ADMIN,
    "profiles": b"POST /v1/spaces/default/collections/users/profiles/lookup HTTP/1.1\r\nHost: x\r\n" + READ,
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("abused") / "data") as running:
        yield running


@pytest.fixture(autouse=True)
def _nobody_else_notices(attacked: Served) -> Iterator[None]:
    """After each attack all processes are the ones there were, good requests pass, and no event came of it."""
    accepted = attacked.get("/api/status").json["accepted"]
    sources = attacked.get("/api/sources").json["data"]["sources"]
    yield
    assert attacked.get("/api/status").json["accepted"] == accepted
    assert attacked.get("/api/sources").json["data"]["sources"] == sources
    assert attacked.post("/v1/track", TRACK).status == 200
    assert attacked.request("GET", "/readyz").status == 200


@pytest.fixture(scope="module", autouse=True)
def _the_same_processes(attacked: Served) -> Iterator[None]:
    before = dict(attacked.children)
    yield
    assert {pid for pid in before if Path(f"/proc/{pid}").exists()} == set(before)
    status = attacked.committed()
    assert status["balanced"]


def connected(attacked: Served) -> socket.socket:
    place = urlsplit(attacked.url)
    return socket.create_connection((str(place.hostname), place.port), timeout=ANSWER_SECONDS_MAX)


def answered(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionError:
        pass
    return received


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def sent(attacked: Served, request: bytes) -> list[int]:
    """Send bytes, then nothing more; return the statuses that come before the connection ends."""
    with connected(attacked) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was closed before we had said all
        return statuses(answered(connection))


SMUGGLED = b"POST /v1/track HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (
    WRITE,
    len(TRACK),
    TRACK,
)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ODD_LENGTHS = {
    "two lengths": (b"Content-Length: 4\r\nContent-Length: 5\r\n", b"{}"),
    "a list of lengths": (b"Content-Length: 2, 3\r\n", b"{}"),
    "length and chunks": (b"Content-Length: 4\r\n" + CHUNKED, b"0\r\n\r\n"),
    "chunks and length": (CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n"),
    "a sign": (b"Content-Length: +2\r\n", b"{}"),
    "hexadecimal": (b"Content-Length: 0x2\r\n", b"{}"),
    "a space before the colon": (b"Content-Length : 2\r\n", b"{}"),
    "an underscore": (b"Content-Length: 1_0\r\n", b"{}"),
    "less than nothing": (b"Content-Length: -2\r\n", b"{}"),
    "no number": (b"Content-Length: \r\n", b"{}"),
    "more than any": (b"Content-Length: 18446744073709551618\r\n", b"{}"),
    "another coding": (b"Transfer-Encoding: identity\r\n", b"{}"),
    "chunks not last": (b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
    "almost chunked": (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "hidden chunked": (b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"),
    "a folded line": (b"X: a\r\n Content-Length: 2\r\n", b""),
    "a bare return": (b"X: a\rContent-Length: 2\r\n", b""),
    "a zero": (b"X: a\x00b\r\n", b""),
    "a signed chunk": (CHUNKED, b"+2\r\n{}\r\n0\r\n\r\n"),
    "a negative chunk": (CHUNKED, b"-1\r\n{}\r\n0\r\n\r\n"),
    "a chunk with 0x": (CHUNKED, b"0x2\r\n{}\r\n0\r\n\r\n"),
    "a chunk with a space": (CHUNKED, b" 2\r\n{}\r\n0\r\n\r\n"),
    "a chunk above any": (CHUNKED, b"FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n"),
    "a chunk without end": (CHUNKED, b"2\r\n{}XX0\r\n\r\n"),
    "a chunk without size": (CHUNKED, b"\r\n{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("trick", ODD_LENGTHS)
def test_no_request_hides_in_another(attacked: Served, place: str, trick: str) -> None:
    head, body = ODD_LENGTHS[trick]
    seen = sent(attacked, PLACES[place] + head + b"\r\n" + body + SMUGGLED)
    # The first is refused and the connection ends: what follows is nobody's request.
    assert seen == [400]


@pytest.mark.parametrize("place", PLACES)
def test_heads_without_measure(attacked: Served, place: str) -> None:
    for head in (
        PLACES[place] + b"".join(b"X-%d: a\r\n" % number for number in range(1_000)),
        PLACES[place] + b"X: " + b"a" * (1 << 20),
        PLACES[place] + b"a" * (1 << 20) + b": x\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n",
        b"GET /api/status?" + b"a=b&" * 20_000 + b" HTTP/1.1\r\n",
        b"A" * (1 << 20),
    ):
        assert set(sent(attacked, head + b"\r\n\r\n")) <= {400, 431}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x05\x01\x00",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"get / http/1.1\r\n\r\n",
        b"\r\n" * 50_000,
        bytes(range(256)) * 100,
    ],
    ids=lambda garbage: repr(garbage[:12]),
)
def test_other_protocols(attacked: Served, garbage: bytes) -> None:
    assert set(sent(attacked, garbage)) <= {400, 431}


def test_bombs_of_every_kind(attacked: Served) -> None:
    bomb = gzip.compress(b'{"a":"' + bytes(30 << 20) + b'"}')
    packed = PLACES["tracking"] + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    assert sent(attacked, packed) == [400]
    # Management unpacks nothing, and reads a megabyte.
    packed = PLACES["management"] + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    assert sent(attacked, packed) == [400]
    large = b"Content-Length: %d\r\n\r\n" % (2 << 20) + b"x" * (2 << 20)
    assert sent(attacked, PLACES["management"] + large) == [413]
    assert sent(attacked, PLACES["profiles"] + large) == [413]
    deep = b"[" * 900_000
    for place in ("management", "tracking"):
        assert sent(attacked, PLACES[place] + b"Content-Length: %d\r\n\r\n" % len(deep) + deep) == [400]
    many = json.dumps({"slug": "a", **{f"k{number}": 1 for number in range(10_000)}}).encode()
    assert sent(attacked, PLACES["management"] + b"Content-Length: %d\r\n\r\n" % len(many) + many) == [400]


def test_ten_thousand_requests_on_one_connection(attacked: Served) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connected(attacked) as connection:
        connection.settimeout(ANSWER_SECONDS_MAX)
        received = b""
        for _ in range(100):
            connection.sendall(one * 100)
            while received.count(b"HTTP/1.1 200") % 100 or not received.endswith(b"ok\n"):
                received += connection.recv(65_536)
            received = b""
        connection.sendall(last)
        assert statuses(answered(connection)) == [200]


def test_slow_senders_are_given_up_and_keep_nobody_out(attacked: Served) -> None:
    heads = [
        b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-",
        PLACES["tracking"] + b"Content-Length: 1000000\r\n\r\n{",
        PLACES["management"] + b"Content-Length: 1000\r\n\r\n{",
        b"",
    ]
    slow = [connected(attacked) for _ in range(SLOW_CONNECTIONS)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(heads[number % len(heads)])
        give_up_at = time.monotonic() + HEADER_SECONDS + 5
        asked = 0
        while time.monotonic() < give_up_at:
            for number, connection in enumerate(slow):
                if number % len(heads) == 0:
                    try:
                        connection.send(b"a")  # never idle, never done
                    except OSError:
                        continue
            assert attacked.request("GET", "/livez").status == 200
            asked += 1
            time.sleep(0.2)
        assert asked > 10
        for number, connection in enumerate(slow):
            if number % len(heads) in (0, 3):
                # Its headers never came: it was told so, or closed where it had not begun.
                connection.settimeout(5)
                assert set(statuses(answered(connection))) <= {408}
    finally:
        for connection in slow:
            connection.close()


def test_nobody_writes_into_our_log(attacked: Served) -> None:
    forged = '{"level": "error", "message": "forged"}'
    for path in (
        "/%0d%0aforged",
        "/v1/spaces/%0aforged/collections/users/profiles/x",
        "/api/sources/%0aforged",
    ):
        attacked.get(path)
        attacked.get(path, READ_TOKEN)
    for place in PLACES.values():
        sent(
            attacked,
            place + b"User-Agent: a\x1b[31m\r\nX: " + forged.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        )
    attacked.request(
        "POST",
        "/api/sources",
        {"slug": f"a\n{forged}"},
        authorization=f"Bearer {ADMIN_TOKEN}",
        headers={"Content-Type": "application/json"},
    )
    said = (attacked.directory.parent / f"{attacked.directory.name}.log").read_text().splitlines()
    for line in said:
        assert "forged" not in line
        assert line.isprintable()
        if line.startswith("{"):
            assert {"at", "level", "process"} <= json.loads(line).keys()
