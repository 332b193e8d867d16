"""The small parts: signatures, waits, what answers mean, batches, secrets."""

import random
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from profilelake.activate import packing, secret_files, signing
from profilelake.activate.journal import Sent
from profilelake.activate.sending import RETRY_AFTER_SECONDS_MAX, Verdict, _meaning
from profilelake.activate.worker import BACK_OFF_FIRST_SECONDS, BACK_OFF_MAX_SECONDS, back_off
from profilelake.errors import Invalid, NotFound
from profilelake.semantics.destinations import Destination

HOOK = Destination("hook", "webhook", "https://example.org/", secret="s")
NOW = 1_772_359_210_000_000
"""2026-03-01T10:00:10Z"""


def test_a_signature_is_that_of_standard_webhooks() -> None:
    made = signing.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "other"],
    )
    first, second = made["webhook-signature"].split(" ")
    assert first == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert second.startswith("v1,")
    assert made["webhook-timestamp"] == "1614265330"


def test_waits_double_up_to_a_bound_and_are_drawn_from_nothing_on() -> None:
    rng = random.Random(3)
    for failures in (1, 2, 5, 9, 50, 10_000):
        span = min(BACK_OFF_MAX_SECONDS, BACK_OFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
        drawn = [back_off(failures, rng) for _ in range(200)]
        assert 0 <= min(drawn) < span * 0.1
        assert span * 0.9 < max(drawn) <= span


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.DELIVERED), (204, Verdict.DELIVERED), (301, Verdict.LATER), (307, Verdict.LATER),
        (400, Verdict.REFUSED), (413, Verdict.REFUSED), (422, Verdict.REFUSED), (401, Verdict.LATER),
        (403, Verdict.LATER), (404, Verdict.LATER), (408, Verdict.LATER), (410, Verdict.GONE), (429, Verdict.LATER),
        (500, Verdict.LATER), (503, Verdict.LATER), (599, Verdict.LATER),
    ],
)  # fmt: skip
def test_what_answers_mean(status: int, verdict: Verdict) -> None:
    assert _meaning(status, {}, NOW).verdict is verdict


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0), ("7", 7), ("0", 0), ("999999999999", RETRY_AFTER_SECONDS_MAX), ("-5", 0), ("soon", 0), ("²", 0),
        ("Sun, 01 Mar 2026 10:00:40 GMT", 30), ("Sun, 01 Mar 2026 09:00:00 GMT", 0), ("Sun, 01 Mar 2027 10:00:00 GMT", 3600),
        ("Sun, 01 Mar 2026 10:00:40", 30), ("Sun, 99 Mar 2026 10:00:40 GMT", 0),
        ("Sun, 01 Mar 2026 10:00:40 +9999999999999999", 0), ("Sun, 01 Mar 99999999999999999999 10:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after(text: str, seconds: float) -> None:
    assert _meaning(503, {"retry-after": text}, NOW).retry_after_seconds == seconds


def test_batches_are_bounded_and_keep_the_order_of_a_profile() -> None:
    two = replace(HOOK, batch=3, parallel=2)
    told = [
        (bytes([number % 5]), [Sent(f"k{number}", "vip", "p", b"x" * (200_000 if number % 7 == 0 else 10))])
        for number in range(60)
    ]
    batches = packing.packed(two, told)
    assert {lane for lane, _ in batches} == {0, 1}
    for profile in range(5):
        mine = [
            record.key for _, records in batches for record in records if int(record.key[1:]) % 5 == profile
        ]
        assert mine == [f"k{number}" for number in range(profile, 60, 5)]
        lanes = {
            lane for lane, records in batches for record in records if int(record.key[1:]) % 5 == profile
        }
        assert len(lanes) == 1
    for _, records in batches:
        assert len(records) <= 3
        assert len(packing.body(two, "bat_x", records)) <= packing.BODY_BYTES_MAX
    huge = Sent("k", "vip", "p", b"x" * 1_000_000)
    assert [len(records) for _, records in packing.packed(two, [(b"p", [huge, huge])])] == [1, 1]


def test_the_key_of_a_batch_is_that_of_its_records() -> None:
    one, two = Sent("a", "vip", "p", b"{}"), Sent("b", "vip", "p", b"{}")
    assert packing.batch_key("hook", [one, two]) == packing.batch_key("hook", [one, two])
    keys = {
        packing.batch_key(*told)
        for told in (("hook", [one]), ("hook", [one, two]), ("hook", [two, one]), ("x", [one]))
    }
    assert len(keys) == 4


def test_secrets_are_for_the_server_alone(tmp_path: Path) -> None:
    place = tmp_path / "destinations"
    secret_files.store(place, "one", "first")
    secret_files.store(place, "one", "second")
    assert secret_files.read(place, "one", {}) == "second"
    assert stat.S_IMODE((place / "one").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert [path.name for path in place.iterdir()] == ["one"]
    assert secret_files.read(place, "$NAME", {"NAME": "third"}) == "third"
    for missing in ("$OTHER", "two"):
        with pytest.raises(NotFound):
            secret_files.read(place, missing, {"OTHER": ""})
    for bad in ("", "a\nb", "é", "x" * 5_000):
        with pytest.raises(Invalid):
            secret_files.store(place, "one", bad)
