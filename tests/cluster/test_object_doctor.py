"""The doctor looks at an object store as the tables use it."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from profilelake.doctor import storage
from profilelake.doctor.findings import Finding, Level, Patient
from profilelake.errors import Invalid
from profilelake.lake.object_storage import ObjectStorage
from profilelake.ops.clock import wall
from profilelake.settings import Layout, Settings
from s3_faults import Asked, Fault, FaultyProxy, faulty


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    with faulty(s3.endpoint) as running:
        yield running


@pytest.fixture
def patient(proxy: FaultyProxy, s3: Any, tmp_path: Path) -> Patient:
    warehouse = f"s3://{s3.bucket}/{uuid.uuid4().hex}"
    settings = f"""
        [lake]
        warehouse = "{warehouse}"
        [storage]
        endpoint = "{proxy.endpoint}"
        plain_http = "allowed"
        retries_max = 0
        request_seconds = 1
        """
    (tmp_path / "profilelake.toml").write_text(settings)
    loaded = Settings.load(tmp_path, {})
    return Patient(Layout(tmp_path), loaded, "default", None, wall(), tmp_path)


def bad(findings: Iterator[Finding]) -> list[tuple[str, str, str]]:
    return [(found.check, found.text, found.fix) for found in findings if found.level != Level.FINE]


def test_a_good_store_is_left_as_it_was(patient: Patient, proxy: FaultyProxy) -> None:
    findings = list(storage.storage(patient))
    assert [(found.check, found.level) for found in findings] == [
        ("storage clock", Level.FINE),
        ("storage", Level.FINE),
    ]
    warehouse = patient.settings.lake.warehouse
    assert list(ObjectStorage(warehouse, patient.settings.storage).list(warehouse)) == []
    assert any("_doctor" in asked.path for asked in proxy.asked)


@pytest.mark.parametrize(
    ("method", "part", "fault", "said"),
    [
        ("PUT", "", "denied", "grant s3:GetObject, s3:PutObject"),
        ("GET", "list-type", "denied", "s3:ListBucket"),
        ("GET", "", "expired", "the credentials have expired"),
        ("", "", "hang", "did not answer in time"),
        ("POST", "delete", "denied", "cannot be removed"),
    ],
)
def test_what_is_missing_is_told_with_its_fix(
    patient: Patient, proxy: FaultyProxy, method: str, part: str, fault: Fault, said: str
) -> None:
    def rule(asked: Asked) -> Fault:
        return fault if asked.method.startswith(method) and part in asked.path else ""

    proxy.rule = rule
    ((check, text, fix),) = bad(storage.storage(patient))
    assert check == "storage"
    assert said in f"{text}; {fix}"
    assert fix


def test_a_clock_that_is_off_is_told(patient: Patient) -> None:
    late = Patient(
        patient.layout, patient.settings, "default", None, wall() - 100_000_000, patient.kernel_cache
    )
    ((check, text, fix),) = bad(storage.storage(late))
    assert check == "storage clock"
    assert "s ahead of ours" in text
    assert "chronyc makestep" in fix


def test_a_lake_on_a_disk_is_not_asked_about(tmp_path: Path) -> None:
    patient = Patient(Layout(tmp_path), Settings.load(tmp_path, {}), "default", None, wall(), tmp_path)
    assert list(storage.storage(patient)) == []


def test_a_bucket_is_needed(patient: Patient) -> None:
    (patient.layout.directory / "profilelake.toml").write_text('[lake]\nwarehouse = "s3://"')
    with pytest.raises(Invalid, match="it names no bucket"):
        list(storage.storage(patient))
