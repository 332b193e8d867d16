"""The doctor: what is wrong is found and told with its fix, what is right is left alone."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import run, told
from pipeline_driver import START, WORKSPACE, Desk, LogBuilder
from profilelake.backup import record
from profilelake.doctor import data, directory, machine
from profilelake.doctor.findings import Finding, Level, Patient, fine, worst
from profilelake.doctor.run import CHECKS, examine
from profilelake.errors import Corrupt
from profilelake.landing.dedup import DedupIndex
from profilelake.ops.clock import wall
from profilelake.settings import Layout, Settings
from profilelake.workspaces.identifier_key import key_fingerprint
from stopped_directory import stopped_directory

HOUR = 3_600 * 1_000_000


def patient_of(layout: Layout) -> Patient:
    return Patient(
        layout=layout,
        settings=Settings.load(layout.directory, {"PROFILELAKE_HTTP_PORT": "0"}),
        workspace=WORKSPACE,
        server=None,
        now=wall(),
        kernel_cache=Path(os.environ.get("NUMBA_CACHE_DIR", layout.run)),
    )


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return patient_of(stopped_directory(tmp_path / "data"))


def level(findings: Iterator[Finding], check: str) -> Level:
    (found,) = [finding for finding in findings if finding.check == check]
    assert bool(found.fix) == (found.level != Level.FINE), found
    return found.level


def listed(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_new_directory_lacks_only_its_backups(patient: Patient) -> None:
    before = listed(patient.layout.directory)
    findings = list(examine(patient))
    bad = {finding.check for finding in findings if finding.level != Level.FINE}
    assert bad - {"open files", "shared memory", "jail", "compiled code", "file system", "sync", "room"} == {
        "key elsewhere",
        "backup",
    }
    assert worst(findings) == Level.PROBLEM
    assert listed(patient.layout.directory) == before


def test_secrets_open_to_others(patient: Patient) -> None:
    assert level(directory.access(patient), "access") == Level.FINE
    patient.layout.directory.chmod(0o755)
    assert level(directory.access(patient), "access") == Level.WARNING
    patient.layout.directory.chmod(0o700)
    (patient.layout.secrets / "identifier.key").chmod(0o644)
    assert level(directory.access(patient), "access") == Level.PROBLEM


def test_the_key_must_be_elsewhere_and_the_backup_young(patient: Patient) -> None:
    layout = patient.layout
    assert level(directory.key(patient), "key elsewhere") == Level.PROBLEM
    fingerprint = key_fingerprint(layout.secrets)
    made = record.Made(patient.now - HOUR, "/backups", "b1", fingerprint)
    record.store(layout.backups, record.Record(made, made))
    assert level(directory.key(patient), "key elsewhere") == Level.FINE
    assert level(directory.backups(patient), "backup") == Level.FINE
    later = replace(patient, now=patient.now + 8 * 24 * HOUR)
    assert level(directory.backups(later), "backup") == Level.WARNING
    other = record.Made(patient.now, "/backups", "b1", "another")
    record.store(layout.backups, record.Record(other, other))
    assert level(directory.key(patient), "key elsewhere") == Level.PROBLEM


def test_another_or_no_key(patient: Patient) -> None:
    path = patient.layout.secrets / "identifier.key"
    path.write_bytes(bytes(16))
    assert level(directory.key(patient), "identifier key") == Level.PROBLEM
    path.unlink()
    assert level(directory.key(patient), "identifier key") == Level.PROBLEM


def test_format_and_leftovers(patient: Patient) -> None:
    assert level(directory.format(patient), "format") == Level.FINE
    (patient.layout.directory / "format.json").write_text("{")
    assert level(directory.format(patient), "format") == Level.PROBLEM
    assert list(directory.leftovers(patient)) == []
    for name in ("state.new", "state.old"):
        (patient.layout.directory / name).mkdir()
    assert [finding.level for finding in directory.leftovers(patient)] == [Level.WARNING] * 2


def test_a_taken_port(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = replace(patient.settings.http, port=taken.getsockname()[1])
        found = list(machine.port(replace(patient, settings=replace(patient.settings, http=http))))
    assert [finding.level for finding in found] == [Level.PROBLEM]
    assert "ss -ltnp" in found[0].fix


def test_a_check_that_breaks_is_a_finding(patient: Patient) -> None:
    def torn(_: Patient) -> Iterator[Finding]:
        yield fine("first", "")
        raise Corrupt("torn; restore it")

    def wrong(_: Patient) -> Iterator[Finding]:
        raise KeyError("secret value")
        yield  # makes it a generator

    found = list(examine(patient, (torn, wrong)))
    assert [(f.check, f.level) for f in found] == [
        ("first", Level.FINE),
        ("torn", Level.PROBLEM),
        ("wrong", Level.PROBLEM),
    ]
    assert "secret value" not in found[2].text
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)


# ---- with data ---------------------------------------------------------------------------------


@pytest.fixture
def lived(tmp_path: Path) -> tuple[Desk, Patient]:
    """Return a directory with a few events in state and tables."""
    layout = stopped_directory(tmp_path / "data")
    desk = Desk(layout.directory)
    desk.setup = replace(
        desk.setup,
        recent_directory=layout.recent(WORKSPACE),
        dedup_directory=layout.dedup(WORKSPACE),
    )
    desk.state.close()
    desk.open()
    log = LogBuilder("0" * 16)
    messages = [{"type": "track", "event": "x", "messageId": f"m{n}", "userId": "u"} for n in range(5)]
    desk.apply([log.record(START, messages)])
    desk.publish()
    desk.state.close()
    return desk, patient_of(layout)


def test_data_that_agree(lived: tuple[Desk, Patient], monkeypatch: pytest.MonkeyPatch) -> None:
    desk, patient = lived
    monkeypatch.setattr(data, "identifier_key", lambda *_: desk.setup.identifier_key)
    for check in (data.state, data.tables, data.message_ids, data.account, data.log):
        for finding in check(patient):
            assert finding.level == Level.FINE, finding


@pytest.mark.parametrize("way", [Desk.rebuild, Desk.rebuild_by_plan])
def test_data_agree_after_a_rebuild(
    way: Callable[[Desk], object], lived: tuple[Desk, Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, patient = lived
    monkeypatch.setattr(data, "identifier_key", lambda *_: desk.setup.identifier_key)
    desk.open()
    way(desk)
    desk.close()
    for check in (data.state, data.tables, data.message_ids):
        for finding in check(patient):
            assert finding.level == Level.FINE, finding


def test_the_future_is_told(lived: tuple[Desk, Patient]) -> None:
    _, patient = lived
    early = replace(patient, now=START - HOUR)
    assert level(data.state(early), "clock") == Level.PROBLEM


def test_a_missing_data_file(lived: tuple[Desk, Patient]) -> None:
    _, patient = lived
    next(patient.layout.warehouse.glob("ws_default/events/data/**/*.parquet")).unlink()
    assert level(data.tables(patient), "tables") == Level.PROBLEM


def test_ids_that_the_index_does_not_know(
    lived: tuple[Desk, Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, patient = lived
    monkeypatch.setattr(data, "identifier_key", lambda *_: desk.setup.identifier_key)
    monkeypatch.setattr(DedupIndex, "load", classmethod(lambda cls, *_, **__: cls(Path("none"), WORKSPACE)))
    assert level(data.message_ids(patient), "message ids") == Level.PROBLEM


def test_a_state_of_another_epoch(lived: tuple[Desk, Patient]) -> None:
    _, patient = lived
    patient.layout.state.rename(patient.layout.directory / "away")
    found = list(data.tables(patient))
    assert level(iter(found), "epoch") == Level.PROBLEM
    assert any("profilelake rebuild --dir" in finding.fix for finding in found)


def test_the_command(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROFILELAKE_HTTP_PORT", "0")
    ran = run("doctor", "--dir", patient.layout.directory)
    assert ran.code == 20
    assert b"BAD  key elsewhere: no backup with the identifier key was ever made" in ran.out
    assert b"-> profilelake backup DEST" in ran.out
    ran = run("doctor", "--dir", patient.layout.directory, "--json")
    assert ran.json["worst"] == "problem"
    assert {"check", "level", "text", "fix"} == ran.json["findings"][0].keys()
    told(run("doctor", "--dir", tmp_path / "none"), 2, "not a profilelake data directory")
