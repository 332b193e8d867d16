"""What docs/tracking-api.md promises to name: endpoints, reasons, metrics, settings, limits."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from profilelake import collect
from profilelake.collect import tracking
from profilelake.collect.limits import CollectLimits
from profilelake.collect.metrics import CollectMetrics
from profilelake.collect.tracking import Tracking
from profilelake.settings import HttpSettings
from profilelake.workspaces.keyring import KeyRing

PAGE = (Path(__file__).parents[3] / "docs" / "tracking-api.md").read_text()
SOURCE = "".join(path.read_text() for path in Path(collect.__path__[0]).glob("*.py"))


class NoLog:
    trouble = None

    def append(self, entry: object) -> None:  # type: ignore[override]
        raise NotImplementedError


def test_every_endpoint_is_on_the_page(tmp_path: Path) -> None:
    app = Tracking(NoLog(), KeyRing(tmp_path / "none"), CollectLimits(), CollectorRegistry())  # type: ignore[arg-type]
    paths = {path.rstrip("/") or "/" for path in [*tracking._ROUTES, *app._endpoints]}
    assert len(paths) > 30
    missing = [path for path in sorted(paths) if f"`{path}" not in PAGE and f" {path}" not in PAGE]
    assert missing == []


def test_every_reason_is_in_the_table() -> None:
    reasons = set(re.findall(r'(?:invalid|Refused)\(\s*(?:\d+,\s*"\w+",\s*)?"(\w+)"', SOURCE)) | {"internal"}
    assert {"quota_exceeded", "invalid_host", "missing_write_key", "not_durable_in_time"} <= reasons
    assert [reason for reason in sorted(reasons) if f"`{reason}`" not in PAGE] == []


def test_every_metric_is_named() -> None:
    registry = CollectorRegistry()
    CollectMetrics(registry)
    names = [family.name.removeprefix("profilelake_collect_") for family in registry.collect()]
    assert len(names) > 8
    assert [name for name in names if f"{name}_total" not in PAGE] == []


@pytest.mark.parametrize(
    "name", ["public_url", "trusted_proxies", "unknown_key", "browser_bundles", "processes"]
)
def test_settings_exist_as_they_are_shown(name: str) -> None:
    assert name in {field.name for field in fields(HttpSettings)}
    assert f"\n{name} = " in PAGE


def test_limits_are_what_they_are_said_to_be() -> None:
    limits = CollectLimits()
    assert (limits.body_bytes_max, limits.batch_events_max) == (4 << 20, 10_000)
    assert (limits.inflate_ratio_max, limits.inflate_free_bytes, limits.tolerant_bytes_max) == (
        200,
        1 << 20,
        1 << 20,
    )
    assert (limits.pending_bytes_max, limits.answer_seconds_max) == (256 << 20, 8.0)
