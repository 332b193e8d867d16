"""The cases of `spec/events` as records of a log."""

from pathlib import Path
from typing import Any

import yaml

from log_records import record
from profilelake.eventlog import Flags, Kind, Record

FILES = sorted((Path(__file__).parent / "spec" / "events").glob("*.yaml"))
CASES: dict[str, dict[str, Any]] = {
    f"{path.stem}-{case['about'].replace(' ', '_')}": case
    for path in FILES
    for case in yaml.safe_load(path.read_text())["cases"]
}
REQUEST = {"browser", "ip", "sent_at"}


def record_of(case: dict[str, Any]) -> Record:
    """Return what came of a case over the network."""
    request = case.get("request", {})
    assert request.keys() <= REQUEST
    body = bytes.fromhex(case["hex"]) if "hex" in case else case["body"].encode()
    for mark, (text, times) in case.get("repeat", {}).items():
        body = body.replace(mark.encode(), text.encode() * times)
    return record(
        body,
        kind=Kind[case.get("path", "batch").upper()],
        events=case.get("events", len(case["expected"])),
        flags=Flags.BROWSER if request.get("browser") else Flags.NONE,
        ip=request.get("ip", ""),
        sent_at=request.get("sent_at", ""),
    )
