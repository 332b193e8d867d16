"""The data directory as files: format, owner, room, secrets, backups."""

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from profilelake.backup import record
from profilelake.directory_format import FORMAT, check_format
from profilelake.doctor.findings import Finding, Patient, fine, problem, warning
from profilelake.errors import ProfilelakeError
from profilelake.eventlog.embedded import Limits
from profilelake.workspaces.identifier_key import IDENTIFIER_KEY_FILE, key_fingerprint

FSYNC_TRIES: Final = 20
FSYNC_SECONDS_WARN: Final = 0.02
FSYNC_SECONDS_BAD: Final = 0.2
BACKUP_DAYS_WARN: Final = 7
_DAY: Final = 86_400 * 1_000_000
_MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "overlay"})
_NETWORK_FILE_SYSTEMS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"})


def format(patient: Patient) -> Iterator[Finding]:
    """Is the directory of the format that this program reads?"""
    try:
        check_format(patient.layout.directory)
    except ProfilelakeError as error:
        yield problem("format", str(error), f"profilelake upgrade --dir {patient.layout.directory}")
    else:
        yield fine("format", f"format {FORMAT}")


def owner(patient: Patient) -> Iterator[Finding]:
    """Does exactly the running server own the directory?"""
    lock = patient.layout.run / "lock"
    held = lock.exists() and _is_locked(lock)
    if held and patient.server is None:
        yield warning(
            "lock",
            f"in use by {lock.read_text().strip() or 'a process'}, which does not answer over HTTP",
            "wait until it has started; or it is an import, or a rebuild without a server",
        )
    elif held:
        yield fine("lock", f"owned by the server on {patient.server}")
    else:
        yield fine("lock", "no server runs")


def access(patient: Patient) -> Iterator[Finding]:
    """Is what is secret readable to the owner only?"""
    layout = patient.layout
    checked = [
        (layout.directory, 0o700, warning),
        (layout.secrets, 0o700, problem),
        (layout.secrets / IDENTIFIER_KEY_FILE, 0o600, problem),
        (layout.control, 0o600, problem),
        (layout.credentials, 0o600, problem),
    ]
    found = False
    for path, mode, say in checked:
        if path.exists() and (loose := stat.S_IMODE(path.stat().st_mode) & ~mode & 0o077):
            found = True
            yield say(
                "access",
                f"{path} is open to others (mode has {loose:04o} too much)",
                f"chmod {mode:o} {path}",
            )
    if not found:
        yield fine("access", "secrets are readable to their owner only")


def room(patient: Patient) -> Iterator[Finding]:
    """Is there room on the disk, and does it keep what it is given?"""
    directory = patient.layout.directory
    usage = shutil.disk_usage(directory)
    reserve = min(Limits().reserve_bytes, usage.total // 20)
    text = f"{usage.free:,} of {usage.total:,} bytes are free"
    fix = "make room, or move the directory's disk to a larger one"
    if usage.free <= reserve:
        yield problem("room", f"{text}: senders are refused below {reserve:,}", fix)
    elif usage.free < 4 * reserve:
        yield warning("room", f"{text}: senders are refused below {reserve:,}", fix)
    else:
        yield fine("room", text)
    kind = _file_system(directory)
    if kind in _MEMORY_FILE_SYSTEMS:
        yield warning(
            "file system", f"{kind} does not outlive the machine or container", "use a disk or a volume"
        )
    elif kind in _NETWORK_FILE_SYSTEMS:
        yield warning(
            "file system", f"{kind} is a network file system: its syncs may lie", "use a local disk"
        )
    else:
        yield fine("file system", kind or "unknown")


def sync_speed(patient: Patient) -> Iterator[Finding]:
    """How long does the disk take to make something durable? Every request waits for that."""
    try:
        # A file without a name: nothing of it is left, whatever happens.
        descriptor = os.open(patient.layout.directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError as error:
        yield warning(
            "sync", f"cannot be measured here: {error}", "look at profilelake_log_sync_seconds instead"
        )
        return
    try:
        seconds = []
        for _ in range(FSYNC_TRIES):
            os.write(descriptor, bytes(4096))
            began = time.perf_counter()
            os.fdatasync(descriptor)
            seconds.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    typical = sorted(seconds)[len(seconds) // 2]
    text = f"a sync takes {typical * 1000:.2f} ms (median of {FSYNC_TRIES}), {max(seconds) * 1000:.2f} ms at most"
    if typical > FSYNC_SECONDS_BAD:
        yield problem("sync", text, "put the directory on a disk that syncs in milliseconds")
    elif typical > FSYNC_SECONDS_WARN:
        yield warning("sync", text, "senders will feel it; a disk that syncs in milliseconds is better")
    else:
        yield fine("sync", text)


def key(patient: Patient) -> Iterator[Finding]:
    """Is the identifier key there, the right one, and somewhere else as well?"""
    layout = patient.layout
    try:
        fingerprint = key_fingerprint(layout.secrets)
    except ProfilelakeError as error:
        yield problem(
            "identifier key", str(error), "profilelake restore --help says how to get it from a backup"
        )
        return
    bound = _bound_to(layout.control)
    if bound is not None and bound != fingerprint:
        yield problem(
            "identifier key",
            f"its fingerprint is {fingerprint}; data and suppressions were hashed under {bound}",
            f"put the key with that fingerprint back into {layout.secrets}",
        )
        return
    yield fine("identifier key", f"fingerprint {fingerprint}, the one that everything was hashed under")
    escrow = record.load(layout.backups).with_key
    if escrow is None or escrow.key_fingerprint != fingerprint:
        yield problem(
            "key elsewhere",
            "no backup with the identifier key was ever made: if this disk is lost, nothing new can be joined "
            "to what is restored",
            f"profilelake backup DEST --dir {layout.directory}, or with --key-to FOLDER",
        )
    else:
        yield fine("key elsewhere", f"the key went to {escrow.place} {_ago(patient.now - escrow.at)}")


def backups(patient: Patient) -> Iterator[Finding]:
    """Was a backup made lately?"""
    last = record.load(patient.layout.backups).last
    fix = f"profilelake backup DEST --dir {patient.layout.directory}, every day"
    if last is None:
        yield warning("backup", "none was ever made", fix)
    elif patient.now - last.at > BACKUP_DAYS_WARN * _DAY:
        yield warning("backup", f"the last one was made {_ago(patient.now - last.at)}", fix)
    else:
        yield fine("backup", f"{last.id} in {last.place}, {_ago(patient.now - last.at)}")


def leftovers(patient: Patient) -> Iterator[Finding]:
    """Is something left of what was cut short?"""
    layout = patient.layout
    fresh = layout.state.with_name(f"{layout.state.name}.new")
    if patient.server is None and fresh.exists():
        yield warning(
            "leftovers",
            f"{fresh}: a rebuild was cut short",
            f"profilelake rebuild --dir {layout.directory}, or remove it where `doctor` finds all at one epoch",
        )
    old = layout.state.with_name(f"{layout.state.name}.old")
    if old.exists():
        yield warning(
            "leftovers",
            f"{old}: the state from before the last rebuild, {_bytes_below(old):,} bytes; it holds what was "
            "erased since",
            f"rm -r {old}",
        )


def _bound_to(control: Path) -> str | None:
    """Return the fingerprint of the key a control database was made with, None where it does not say."""
    if not control.exists():
        return None
    with closing(sqlite3.connect(f"{control.absolute().as_uri()}?mode=rw", uri=True)) as database:
        database.execute("PRAGMA query_only = ON")
        row = database.execute("SELECT value FROM facts WHERE name = 'identifier_key'").fetchone()
    return None if row is None else str(row[0])


def _is_locked(path: Path) -> bool:
    """Tell whether a process holds a file's lock, without taking it."""
    status = path.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        return any(place in line.split() for line in Path("/proc/locks").read_text().splitlines())
    except OSError:
        return False


def _file_system(path: Path) -> str:
    """Return the kind of file system a path is on, empty where the system does not tell."""
    found = ("", "")
    try:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, kind, *_ = line.split(" ")
            inside = path.resolve().is_relative_to(mount.replace("\\040", " "))
            if inside and len(mount) >= len(found[0]):
                found = (mount, kind)
    except OSError:
        return ""
    return found[1]


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _ago(micros: int) -> str:
    hours = micros / 3_600_000_000
    return f"{hours / 24:.0f} days ago" if hours >= 48 else f"{hours:.1f} hours ago"
