"""The load generator of the benchmarks: all events once, each with an id of its own, patient when told to be."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from unit.demo.recording import Recorder

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def _load_module() -> Any:
    spec = importlib.util.spec_from_file_location("load", BENCHMARKS / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load"] = module  # its dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


load = _load_module()


def run_load(recorder: Recorder, scratch: Path, rate: float | None = None) -> Any:
    corpus = load.Corpus.load(load.Mix(events=1010, profiles=50), scratch)
    return load.run_load(recorder.url, "wk_test", corpus, connections=4, rate=rate)


def test_sends_every_event_once_with_the_promised_mix(recorder: Recorder, tmp_path: Path) -> None:
    result = run_load(recorder, tmp_path)
    assert result.events == len(recorder.events) == 1010
    assert len({event["messageId"] for event in recorder.events}) == 1010
    assert {len(batch) for batch in recorder.batches} == {20, 10}
    types = Counter(event["type"] for event in recorder.events)
    assert set(types) == {"identify", "track", "page"}
    assert 0.15 < types["identify"] / 1010 < 0.25
    assert all(event["traits"] for event in recorder.events if event["type"] == "identify")
    new = [event for event in recorder.events if not event["anonymousId"].startswith("a-")]
    assert 0 < len(new) < 30
    assert all("userId" in event for event in new)
    assert set(result.answer_ms) == {"p50", "p90", "p99", "max"}


def test_the_same_mix_gives_the_same_bodies_and_is_built_once(recorder: Recorder, tmp_path: Path) -> None:
    run_load(recorder, tmp_path)
    first = sorted(event["messageId"] for event in recorder.events)
    (kept,) = tmp_path.iterdir()
    built_at = kept.stat().st_mtime_ns
    recorder.batches.clear()
    recorder.statuses.clear()
    run_load(recorder, tmp_path)
    assert kept.stat().st_mtime_ns == built_at
    assert sorted(event["messageId"] for event in recorder.events) == first


@pytest.mark.parametrize(("status", "seconds"), [(429, 1), (503, 0)])
def test_waits_when_told_to_and_sends_the_body_again(
    recorder: Recorder, tmp_path: Path, status: int, seconds: int
) -> None:
    recorder.answers = [(status, {"Retry-After": str(seconds)})]
    result = run_load(recorder, tmp_path)
    assert result.statuses == {200: 51, status: 1}
    assert result.events == 1010
    assert len({event["messageId"] for event in recorder.events}) == 1010
    assert result.answer_ms["max"] >= seconds * 1000


def test_a_refused_body_is_counted_not_sent_again(recorder: Recorder, tmp_path: Path) -> None:
    recorder.answers = [(400, {})]
    command = [sys.executable, str(BENCHMARKS / "load.py"), "--url", recorder.url, "--write-key", "wk_test"]
    command += ["--events", "100", "--connections", "1", "--scratch", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert json.loads(found.stdout)["statuses"] == {"200": 4, "400": 1}


def test_a_paced_run_keeps_its_schedule(recorder: Recorder, tmp_path: Path) -> None:
    result = run_load(recorder, tmp_path, rate=4000)
    # The last of 51 requests falls due after 0.25 s; being late is the machine's business, being early is ours.
    assert result.seconds >= 0.25
    assert result.events == 1010


def test_says_on_what_machine_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "_machine.py"), str(tmp_path), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert 0 < found["sync_p50_ms"] <= found["sync_p99_ms"]
    assert "duckdb" in found["packages"]
