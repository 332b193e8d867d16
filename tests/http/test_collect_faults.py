"""When the disk fails, too much comes at once, or clients are slow: nobody is told 200 for what is not durable."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from profilelake.collect.limits import CollectLimits
from profilelake.eventlog.embedded import Limits
from profilelake.ops.http import HttpLimits
from tracking_server import TRACK, WRITE_KEY, FailingDisk, TrackingServer, basic, read_response

HEAD = b"POST /v1/track HTTP/1.1\r\nHost: x\r\n" + f"Authorization: {basic(WRITE_KEY)}\r\n".encode()
QUICK = HttpLimits(header_seconds=0.3, body_seconds=0.3, keep_alive_seconds=0.3, write_seconds=0.3)


def test_what_is_not_durable_is_never_acknowledged(tmp_path: Path) -> None:
    disk = FailingDisk()
    with TrackingServer(tmp_path, files=disk) as server:
        assert server.send("/v1/track", {**TRACK, "messageId": "before"}).status == 200
        disk.broken = True
        for _ in range(3):
            answer = server.send("/v1/track", {**TRACK, "messageId": "lost"})
            assert (answer.status, answer.json["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["access-control-expose-headers"] == "Retry-After, X-RateLimit-Reset"
        disk.broken = False
        for _ in range(1_000):
            if server.send("/v1/track", {**TRACK, "messageId": "after"}).status == 200:
                break
            time.sleep(0.01)
        else:
            pytest.fail("the log never recovered")
        assert server.count("profilelake_collect_events_total", source_id="default") == 2
    assert [json.loads(record.body)["messageId"] for record in server.records()] == ["before", "after"]


def test_a_disk_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    """SDKs hang up after 10 to 15 seconds. The answer comes before; the events may come to be stored yet."""
    disk = FailingDisk()
    limits = CollectLimits(answer_seconds_max=0.2)
    with TrackingServer(tmp_path, files=disk, limits=limits) as server, ThreadPoolExecutor(20) as pool:
        disk.open.clear()
        answers = [
            pool.submit(server.send, "/v1/track", {**TRACK, "messageId": f"m-{number}"})
            for number in range(20)
        ]
        for pending in answers:
            answer = pending.result(10)
            assert (answer.status, answer.json["reason"]) == (503, "not_durable_in_time")
            assert int(answer.headers["retry-after"]) >= 1
            assert "message ids" in answer.json["message"]
        assert server.count("profilelake_collect_events_total", source_id="default") == 0
        disk.open.set()
        assert server.send("/v1/track", {**TRACK, "messageId": "m-20"}).status == 200
    stored = [json.loads(record.body)["messageId"] for record in server.records()]
    assert sorted(stored) == sorted(f"m-{number}" for number in range(21))


def test_whoever_comes_while_the_disk_hangs_gets_its_own_time(tmp_path: Path) -> None:
    """A group that waits for a hanging disk stays open. Who joins it late is not refused for its age."""
    disk = FailingDisk()
    limits = CollectLimits(answer_seconds_max=1.0)
    with TrackingServer(tmp_path, files=disk, limits=limits) as server, ThreadPoolExecutor(3) as pool:
        disk.open.clear()
        first = pool.submit(server.send, "/v1/track", TRACK)
        second = pool.submit(server.send, "/v1/track", TRACK)
        assert {first.result(10).status, second.result(10).status} == {503}
        late = pool.submit(server.send, "/v1/track", TRACK)
        while server.writer.queued_bytes < 3 * len(json.dumps(TRACK)):
            pass
        disk.open.set()
        assert late.result(10).status == 200


def test_too_much_at_once_is_told_to_come_back(tmp_path: Path) -> None:
    disk = FailingDisk()
    body = json.dumps({**TRACK, "properties": {"text": "x" * 40_000}}).encode()
    with (
        TrackingServer(tmp_path, files=disk, log_limits=Limits(queue_bytes_max=100_000)) as server,
        ThreadPoolExecutor(20) as pool,
    ):
        disk.open.clear()
        answers = [pool.submit(server.send, "/v1/track", body) for _ in range(20)]
        refused = 0
        while refused < 18:
            refused = sum(answer.done() for answer in answers)
        disk.open.set()
        statuses = sorted(answer.result().status for answer in answers)
        assert statuses == [200] * 2 + [429] * 18
        late = next(answer.result() for answer in answers if answer.result().status == 429)
        assert (late.json["code"], late.headers["retry-after"]) == ("too_many_requests", "1")
        assert late.headers["x-ratelimit-reset"] == "1"
    assert len(server.records()) == 2


def test_a_stop_answers_what_is_under_way(tmp_path: Path) -> None:
    disk = FailingDisk()
    with ThreadPoolExecutor(1) as pool:
        with TrackingServer(tmp_path, files=disk) as server:
            disk.open.clear()
            answer = pool.submit(server.send, "/v1/track", TRACK)
            while not server.writer.queued_bytes:
                pass
            threading.Timer(0.3, disk.open.set).start()
        assert answer.result(10).status == 200
    assert len(server.records()) == 1
    with pytest.raises(ConnectionError):
        server.connect()


def test_what_is_not_stored_for_a_fault_of_ours_does_not_count_against_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(_: object) -> None:
        raise ArithmeticError

    with TrackingServer(tmp_path, monotonic=lambda: 0.0) as server:
        server.control.change_source("default", events_per_second=20)
        with monkeypatch.context() as patched:
            patched.setattr(server.writer, "append", faulty)
            assert server.send("/v1/batch", {"batch": [TRACK] * 85}).status == 500
        assert server.send("/v1/track", TRACK).status == 200
        server.control.change_source("default", events_per_second=0)


def test_the_limit_of_a_source_is_told_in_seconds(tmp_path: Path) -> None:
    seconds = 0.0
    limits = CollectLimits(processes=2)
    with TrackingServer(tmp_path, limits=limits, monotonic=lambda: seconds) as server:
        server.control.change_source("default", events_per_second=20)
        assert server.send("/v1/batch", {"batch": [TRACK] * 85}).status == 200
        # 10 of 20 a second are this process's, 10 are there at the start: 75 are owed.
        for path in ("/v1/track", "/v1/batch"):
            answer = server.send(path, {**TRACK, "batch": [TRACK]})
            assert (answer.status, answer.json["code"]) == (429, "too_many_requests")
            assert answer.json["reason"] == "quota_exceeded"
            assert (answer.headers["retry-after"], answer.headers["x-ratelimit-reset"]) == ("8", "8")
        seconds = 7.5
        assert server.send("/v1/track", TRACK).headers["retry-after"] == "1"
        seconds = 8.0
        assert server.send("/v1/track", TRACK).status == 200
        assert server.count("profilelake_collect_over_quota_events_total", source_id="default") == 3
        assert server.count("profilelake_collect_refused_total", reason="quota_exceeded") == 3
        assert server.count("profilelake_collect_events_total", source_id="default") == 86
        server.control.change_source("default", events_per_second=0)
        seconds = 10.0
        for _ in range(20):
            assert server.send("/v1/track", TRACK).status == 200
    assert sum(record.events for record in server.records()) == 106


def test_what_was_not_stored_counts_against_no_limit(tmp_path: Path) -> None:
    disk = FailingDisk()
    with TrackingServer(tmp_path, files=disk, monotonic=lambda: 0.0) as server:
        server.control.change_source("default", events_per_second=1)
        disk.broken = True
        for _ in range(5):
            answer = server.send("/v1/batch", {"batch": [TRACK] * 50})
            assert (answer.status, answer.json["code"]) == (503, "unavailable")


def test_bodies_that_arrive_in_pieces_share_a_budget(tmp_path: Path) -> None:
    with TrackingServer(tmp_path, limits=CollectLimits(pending_bytes_max=300_000)) as server:
        pending = b"Content-Length: 400000\r\n\r\n" + b"x" * 200_000
        with server.connect() as first, server.connect() as second:
            first.sendall(HEAD + pending)
            second.sendall(HEAD + pending)
            first.settimeout(0.1)
            answered = []
            while not answered:
                for connection in (first, second):
                    connection.settimeout(0.1)
                    try:
                        answered.append(read_response(connection))
                    except TimeoutError:
                        continue
            assert (answered[0].status, answered[0].json["reason"]) == (429, "too_many_bodies")
        assert server.send("/v1/track", TRACK).status == 200


def test_unknown_keys_may_be_accepted_and_dropped(tmp_path: Path) -> None:
    with TrackingServer(tmp_path, limits=CollectLimits(unknown_key="accept_and_drop")) as server:
        assert server.send("/v1/batch", {"batch": [TRACK, TRACK]}, key="unknown").status == 200
        assert server.send("/v1/track", TRACK, key=None).status == 401
        assert server.count("profilelake_collect_dropped_events_total") == 2
    assert server.records() == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("slow"), http=QUICK) as running:
        yield running


class TestSlowClients:
    @pytest.fixture(autouse=True)
    def _still_answers(self, server: TrackingServer) -> Iterator[None]:
        yield
        assert server.send("/v1/track", TRACK).status == 200

    def test_unfinished_requests_are_given_up(self, server: TrackingServer) -> None:
        starts = [
            b"P",
            HEAD,
            HEAD + b"X: a",
            HEAD + b"Content-Length: 100\r\n\r\n",
            HEAD + b"Content-Length: 100\r\n\r\n{",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        ]
        connections = [server.connect() for _ in starts]
        for connection, start in zip(connections, starts, strict=True):
            connection.sendall(start)
        for connection in connections:
            with connection:
                answer = read_response(connection)
                assert (answer.status, answer.json["code"]) == (408, "request_timeout")
                assert connection.recv(1) == b""

    @pytest.mark.parametrize(
        ("start", "piece"),
        [(HEAD, b"X: a\r\n"), (HEAD + b"Content-Length: 100000\r\n\r\n", b"x")],
        ids=["headers", "body"],
    )
    def test_dribbling_does_not_help(self, server: TrackingServer, start: bytes, piece: bytes) -> None:
        with server.connect() as connection:
            connection.sendall(start)
            connection.settimeout(0.02)
            for _ in range(500):
                try:
                    answer = read_response(connection)
                    break
                except TimeoutError:
                    connection.sendall(piece)
            else:
                pytest.fail("a dribbling client was never given up")
            assert answer.status == 408

    def test_an_unused_connection_is_closed(self, server: TrackingServer) -> None:
        with server.connect() as never, server.connect() as once:
            body = json.dumps(TRACK).encode()
            request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
            for _ in range(3):
                once.sendall(request)
                assert read_response(once).status == 200
            assert once.recv(1) == b""
            assert never.recv(1) == b""

    def test_who_answers_before_the_body_is_whole_still_ends_the_connection(
        self, server: TrackingServer
    ) -> None:
        with server.connect() as connection:
            unknown = HEAD.replace(basic(WRITE_KEY).encode(), basic("unknown").encode())
            connection.sendall(unknown + b"Content-Length: 100000\r\n\r\n{")
            assert read_response(connection).status == 401
            connection.sendall(b"x" * 10)
            data = b"x"
            while data:
                data = connection.recv(1000)

    def test_who_does_not_read_answers_is_cut_off(self, server: TrackingServer) -> None:
        with server.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with pytest.raises(OSError):  # noqa: PT012 - which of the writes fails is up to the kernel
                for _ in range(10_000):
                    connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)


def test_idle_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    limits = HttpLimits(connections_max=50, header_seconds=0.3)
    with TrackingServer(tmp_path, http=limits) as server:
        idle = [server.connect() for _ in range(60)]
        answers = []
        for connection in idle[50:]:
            try:
                answers.append(read_response(connection))
            except ConnectionError:
                continue
        assert answers
        assert {(answer.status, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
        for connection in idle:
            connection.settimeout(10)
            while connection.recv(1000):
                pass
            connection.close()
        assert server.send("/v1/track", TRACK).status == 200


def test_a_fault_of_ours_is_answered_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with TrackingServer(tmp_path) as server:

        def fault(_: str) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(server.keys, "source", fault)
        answer = server.send("/v1/track", TRACK)
        assert (answer.status, answer.json["code"]) == (500, "internal")
        assert b"secret" not in answer.body
        assert server.count("profilelake_collect_refused_total", reason="internal") == 1
        monkeypatch.undo()
        assert server.send("/v1/track", TRACK).status == 200
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == [
        "profilelake.collect.tracking"
    ]
