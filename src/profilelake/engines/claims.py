"""Who runs a job: one driver at a time, and the next one once that is gone.

On a directory the claim is a file with a lock, which ends with the process that holds it, however that ends. On
an object store it is an object that its driver writes again every `HEARTBEAT_SECONDS`. Objects are numbered, the
highest number holds, and each is created only where there is none, so of many drivers that take a claim over one
wins, and whoever held it finds a higher number. A driver that has been silent for `LEASE_SECONDS` is taken for
gone; that is judged by the clock of the store alone, so clocks of machines need not agree. One that ran on this
machine is known to be gone at once.

A driver asks `Claim.check` right before it commits. It may be halted between the two for longer than a lease;
then the catalog, which commits to a table only from what the driver has read of it, is what remains.
"""

import fcntl
import logging
import os
import re
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from profilelake.errors import Conflict, Unavailable
from profilelake.lake.files import is_remote, local_path, make_folder
from profilelake.lake.storage import Storage, Stored
from profilelake.ops.clock import wall

LEASE_SECONDS: Final = 300.0
"""A driver that did not write its claim for so long is gone: twice as long as one request is tried again."""
HEARTBEAT_SECONDS: Final = 30.0
"""How often a driver writes its claim on an object store."""
LOOKS_MAX: Final = 20
LOOK_SECONDS: Final = 0.05
"""A lock that is held is tried that often: whoever lists jobs holds it for a moment."""
GOING_SECONDS: Final = 10.0
"""How long who releases a claim waits for a heartbeat that is under way."""
TAKES_MAX: Final = 5
"""How often a claim on an object store is tried, where others take and release it meanwhile."""

_NAME: Final = "claim"
_NUMBERED: Final = re.compile(r"/claim/(\d{6})\.json$")
_log = logging.getLogger(__name__)


class Holder(msgspec.Struct, frozen=True):
    """The driver that holds a claim, and since when (microseconds). `machine` and `started` tell processes apart."""

    host: str
    pid: int
    since: int
    machine: str
    started: str
    token: str

    @classmethod
    def now(cls) -> "Holder":
        """Return this process, as a driver that begins now."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, wall(), _machine(), _started(pid), secrets.token_hex(8))

    def told(self) -> str:
        """Return who it is, in words."""
        since = datetime.fromtimestamp(self.since // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"process {self.pid} on {self.host}, since {since}"

    def ended(self) -> bool:
        """Tell whether this is surely gone: it ran on this machine, and no such process does."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # somebody else's
        # Where /proc hides what others run (hidepid) nothing is said of one that is there.
        return _started(self.pid) not in ("", self.started)


class Claim(ABC):
    """The right to run a job. All methods but `check` never raise."""

    def __init__(self, job: str, me: Holder) -> None:
        self.job, self.me = job, me

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether this is known to be lost, without asking anybody far away."""

    @abstractmethod
    def check(self) -> None:
        """See that the claim is held still.

        Raises:
            Conflict: another driver has the job now.
            Unavailable: the storage does not answer, so nobody knows.
        """

    @abstractmethod
    def release(self) -> None:
        """Let others take the job. Once more does nothing."""

    def _conflict(self) -> Conflict:
        return Conflict(
            f"running job {self.job}: its claim was released or taken over meanwhile, so this driver stops and commits "
            "nothing more; see profilelake engine jobs list, and run the same command again when nobody has it"
        )


def take(storage: Storage, folder: str) -> Claim:
    """Take the claim of the job whose files lie in `folder`.

    Raises:
        Unavailable: another driver has it, or the storage does not answer.
    """
    me = Holder.now()
    return Leased(storage, folder, me) if is_remote(folder) else Locked(folder, me)


def holder(storage: Storage, folder: str) -> Holder | None:
    """Return who holds the claim of a job, or did when last heard of; None where nobody does."""
    if not is_remote(folder):
        return _locked_by(_path(folder))
    newest = _newest(storage, folder)
    if newest is None:
        return None
    found = _read(storage, newest)
    return None if found is None or found.ended() else found


def release(storage: Storage, folder: str) -> bool:
    """Let others take a job whose driver does not go on with it; tell whether anybody had it.

    On an object store a driver that is at work all the same finds out before it commits, and stops.

    Raises:
        Conflict: it lies in a directory, and its driver runs.
    """
    found = holder(storage, folder)
    if not is_remote(folder):
        if found is not None:
            raise Conflict(
                f"releasing job {_job(folder)}: it is run by {found.told()}; stop that process, which releases it"
            )
        return False
    storage.remove([file.location for file in storage.list(f"{folder}/{_NAME}")])
    return found is not None


def is_claim(location: str) -> bool:
    """Tell whether a file of a job is (part of) its claim."""
    *_, folder, name = location.split("/")
    return _NAME in (folder, name)


def _refused(job: str, by: Holder | None, *, leased: bool) -> Unavailable:
    who = by.told() if by else "another process"
    then = (
        f"if that is gone, its claim ends {LEASE_SECONDS:.0f} s after it was last heard of, or at once by: "
        f"profilelake engine jobs release {job}"
        if leased
        else "or stop that process, and run the same again, which goes on where it was"
    )
    return Unavailable(f"running job {job}: it is being run by {who}; wait for it; {then}")


def _job(folder: str) -> str:
    return folder.rpartition("/")[2]


# ---- in a directory ----------------------------------------------------------------------------


class Locked(Claim):
    """A file with a lock. Nobody else removes it, so it is lost only with the folder of the job."""

    def __init__(self, folder: str, me: Holder) -> None:
        super().__init__(_job(folder), me)
        self._path = _path(folder)
        self._descriptor = -1
        for _ in range(LOOKS_MAX):
            try:
                if self._locked():
                    return
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
            except FileNotFoundError:
                continue  # the folder went between
            except OSError as error:
                raise Unavailable(
                    f"claiming job {self.job} by a lock on {self._path}: {error}; see that there is room, and that the "
                    "file system has locks (flock)"
                ) from error
        raise _refused(self.job, _locked_by(self._path), leased=False)

    def _locked(self) -> bool:
        make_folder(self._path.parent)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(descriptor, self._path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, msgspec.json.encode(self.me), 0)
                self._descriptor = descriptor
        finally:
            if self._descriptor < 0:
                os.close(descriptor)  # it is another's, or was released, and so removed, between
        return self._descriptor >= 0

    @property
    def lost(self) -> bool:
        return self._descriptor < 0 or not _is_file(self._descriptor, self._path)

    def check(self) -> None:
        if self.lost:
            raise self._conflict()

    def release(self) -> None:
        if self._descriptor < 0:
            return
        if not self.lost:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def _is_file(descriptor: int, path: Path) -> bool:
    """Tell whether what is open lies there still."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _path(folder: str) -> Path:
    return local_path(f"{folder}/{_NAME}")


def _locked_by(path: Path) -> Holder | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except PermissionError:
        # A user who may not open it cannot know; the jobs of all others are to be seen and swept all the same.
        return Holder("this machine, as another user", 0, 0, "", "", "")
    try:
        # Beside others who look; a driver that wants the claim tries again.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _decoded(os.read(descriptor, 1 << 16)) or Holder("this machine", 0, 0, "", "", "")
    else:
        return None
    finally:
        os.close(descriptor)


# ---- on an object store ------------------------------------------------------------------------


class Leased(Claim):
    """An object with a number, which a thread writes again as long as the claim is held."""

    def __init__(self, storage: Storage, folder: str, me: Holder) -> None:
        super().__init__(_job(folder), me)
        self._storage, self._folder = storage, folder
        self._lost = False
        self._location = self._taken()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim of {self.job}", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        return self._lost

    def check(self) -> None:
        if not self._lost and not self._mine():
            self._lost = True
        if self._lost:
            raise self._conflict()

    def release(self) -> None:
        if self._done.is_set():
            return
        self._done.set()
        # A heartbeat that came later would claim it anew, for a lease.
        self._thread.join(GOING_SECONDS)
        # Where the store is away the claim ends by itself, with its lease; the work is done or has failed by now.
        with suppress(Unavailable):
            if self._mine():
                self._storage.remove(
                    [file.location for file in self._storage.list(f"{self._folder}/{_NAME}")]
                )

    def _taken(self) -> str:
        for _ in range(TAKES_MAX):
            newest, number = _newest(self._storage, self._folder), 1
            if newest is not None:
                found = _read(self._storage, newest)
                if found is None:
                    continue  # it was released between
                if not (found.ended() or _silent(self._storage, self._folder, newest.location)):
                    raise _refused(self.job, found, leased=True)
                number = _number(newest) + 1
            location = f"{self._folder}/{_NAME}/{number:06d}.json"
            if self._storage.create(location, msgspec.json.encode(self.me)):
                self._location = location
                held = False
                try:
                    # Who saw an older claim may have taken that over with a higher number.
                    if held := self._mine():
                        return location
                finally:
                    if not held:  # nobody keeps it up, and it would be this process's for a lease
                        self._storage.remove([location])
        raise _refused(self.job, None, leased=True)

    def _mine(self) -> bool:
        newest = _newest(self._storage, self._folder)
        return (
            newest is not None and newest.location == self._location and _is(self._storage, newest, self.me)
        )

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            try:
                if not self._mine():
                    self._lost = True
                    return
                if not self._done.is_set():
                    self._storage.write(self._location, msgspec.json.encode(self.me))
            except Unavailable as error:
                _log.warning("keeping the claim of job %s: %s; trying again", self.job, error)


def _newest(storage: Storage, folder: str) -> Stored | None:
    found = [file for file in storage.list(f"{folder}/{_NAME}") if _NUMBERED.search(file.location)]
    return max(found, key=_number, default=None)


def _number(file: Stored) -> int:
    matched = _NUMBERED.search(file.location)
    return int(matched[1]) if matched else 0


def _read(storage: Storage, file: Stored) -> Holder | None:
    try:
        return _decoded(storage.read(file.location)) or Holder("another machine", 0, 0, "", "", "")
    except FileNotFoundError:
        return None


def _is(storage: Storage, file: Stored, me: Holder) -> bool:
    found = _read(storage, file)
    return found is not None and found.token == me.token


def _silent(storage: Storage, folder: str, location: str) -> bool:
    """Tell whether a claim is older than a lease, as the store, and nobody else, tells the time."""
    asked = f"{folder}/{_NAME}/asked-{secrets.token_hex(8)}"
    storage.write(asked, b"")
    try:
        written = {file.location: file.modified_at for file in storage.list(f"{folder}/{_NAME}")}
    finally:
        storage.remove([asked])
    now, then = written.get(asked), written.get(location)
    return now is not None and then is not None and now - then > LEASE_SECONDS


def _decoded(content: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(content, type=Holder)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# ---- processes ---------------------------------------------------------------------------------


def _machine() -> str:
    """Return what names this machine since it was started, and the space of its process ids; nothing where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - it is no path
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process of this machine was started, in its own count; nothing where there is none."""
    try:
        # The name before it may hold anything, spaces and parentheses too.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
