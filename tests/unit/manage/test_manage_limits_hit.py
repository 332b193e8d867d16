"""What `limits_hit` tells, read from counters as processes write them."""

from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from profilelake.manage.limits_hit import (
    LIMITS,
    REPORT,
    REPORT_SECONDS_MAX,
    WINDOW_SECONDS,
    LimitWatch,
    read_limits_hit,
)

SECOND = 1_000_000


class Server:
    """Counters of several processes, the time, and the watch over them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.report = directory / REPORT
        self.seconds = 1_000
        (directory / "metrics").mkdir()
        self.watch = LimitWatch(
            directory / "metrics", self.report, lambda: self.seconds * SECOND, lambda: float(self.seconds)
        )

    def count(self, process: int, metric: str, label: str, value: str, count: int) -> None:
        counters = MmapedDict(str(self.directory / "metrics" / f"counter_{process}.db"))
        counters.write_value(mmap_key(metric, f"{metric}_total", [label], [value], "help"), count, 0.0)
        counters.close()

    def hit(self) -> dict[str, int]:
        self.watch.look()
        return {
            limit["name"]: limit["count"] for limit in read_limits_hit(self.report, self.seconds * SECOND)
        }


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_counts_of_all_processes_add_up(server: Server) -> None:
    assert server.hit() == {}
    assert not server.report.exists()
    server.count(1, "profilelake_collect_refused", "reason", "log_queue_full", 3)
    server.count(2, "profilelake_collect_refused", "reason", "log_queue_full", 4)
    server.count(1, "profilelake_collect_refused", "reason", "malformed_json", 9)
    server.count(3, "profilelake_failed_events", "reason", "event_too_large", 2)
    server.count(2, "profilelake_profile_api_requests", "status", "429", 1)
    assert server.hit() == {"log_queue_full": 7, "event_too_large": 2, "profile_requests_per_second": 1}


def test_what_was_long_ago_is_no_more_told(server: Server) -> None:
    server.count(1, "profilelake_collect_refused", "reason", "quota_exceeded", 5)
    assert server.hit() == {"quota_exceeded": 5}
    server.seconds += WINDOW_SECONDS // 2
    server.count(1, "profilelake_collect_refused", "reason", "quota_exceeded", 6)
    assert server.hit() == {"quota_exceeded": 6}
    told = read_limits_hit(server.report, server.seconds * SECOND)[0]
    assert told["last_at"] == "1970-01-01T00:21:40.000000Z"
    assert "--quota" in told["change"]
    server.seconds += WINDOW_SECONDS // 2
    assert server.hit() == {"quota_exceeded": 1}
    server.seconds += WINDOW_SECONDS
    assert server.hit() == {}
    assert not server.report.exists()


def test_the_report_of_a_server_that_is_gone_tells_nothing(server: Server) -> None:
    server.count(1, "profilelake_collect_refused", "reason", "quota_exceeded", 5)
    assert server.hit() != {}
    later = (server.seconds + REPORT_SECONDS_MAX + 1) * SECOND
    assert read_limits_hit(server.report, later) == []
    server.report.write_bytes(b"{")
    assert read_limits_hit(server.report, server.seconds * SECOND) == []


def test_every_limit_says_what_to_do() -> None:
    assert len({limit.name for limit in LIMITS}) == len(LIMITS)
    assert all(len(limit.change) > 20 for limit in LIMITS)
