"""The jail by itself: what code of any kind inside it cannot do, whatever became of the database."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from profilelake.query import jail

OTHERS = ("the handed file", "a thread", "capabilities")
INSIDE = """
import ctypes, json, os, resource, signal, socket, sys, threading
from profilelake.query import jail
directory, handed, parent = sys.argv[1], int(sys.argv[2]), os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
jail.enter(jail.Cage(address_bytes=2 << 30, cpu_seconds=20), [handed])

calls = jail._SYSCALLS[os.uname().machine][1]

def called(call, *arguments):
    if libc.syscall(calls[call], *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

attempts = {
    "read a file": lambda: open(directory + "/secret"),
    "read a link": lambda: open(directory + "/link"),
    "write a file": lambda: open(directory + "/new", "w"),
    "write to the handed file": lambda: os.open(f"/proc/self/fd/{handed}", os.O_RDWR),
    "cut the handed file": lambda: os.truncate(f"/proc/self/fd/{handed}", 0),
    "list a directory": lambda: os.listdir(directory),
    "list the root": lambda: os.listdir("/"),
    "remove a file": lambda: os.remove(directory + "/secret"),
    "rename a file": lambda: os.rename(directory + "/secret", directory + "/taken"),
    "link a file": lambda: os.link(directory + "/secret", directory + "/copy"),
    "make a directory": lambda: os.mkdir(directory + "/made"),
    "make a pipe": lambda: os.mkfifo(directory + "/pipe"),
    "change a mode": lambda: os.chmod(directory + "/secret", 0o777),
    "change a time": lambda: os.utime(directory + "/secret", (0, 0)),
    "change an owner": lambda: os.chown(directory + "/secret", 0, 0),
    "read the environment": lambda: open("/proc/self/environ"),
    "read memory of the parent": lambda: open(f"/proc/{parent}/mem", "rb"),
    "read a device": lambda: open("/dev/zero", "rb"),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a datagram socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "open a Unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "make a pair of sockets": lambda: socket.socketpair(),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork(),
    "signal the parent": lambda: os.kill(parent, 0),
    "end the parent": lambda: os.kill(parent, signal.SIGTERM),
    "trace the parent": lambda: called("ptrace", 16, parent, 0, 0),
    "start an engine of the kernel": lambda: called("io_uring_setup", 8, None),
    "share memory": lambda: called("shmget", 0, 4096, 0o1600),
    "make a queue of messages": lambda: called("msgget", 0, 0o1600),
    "make semaphores": lambda: called("semget", 0, 1, 0o1600),
    "have memory that is secret": lambda: called("memfd_secret", 0),
    "watch files": lambda: called("inotify_init1", 0),
    "slow the parent down": lambda: called("setpriority", 0, parent, 1),
    "pin the parent": lambda: called("sched_setaffinity", parent, 128, bytes([255] * 128)),
    "name the machine": lambda: called("sethostname", b"x", 1),
    "read the kernel's log": lambda: called("syslog", 10, None, 0),
    "make a file in memory": lambda: os.memfd_create("x"),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)),
    "take more memory": lambda: bytearray(3 << 30),
}
outcome = {}
for name, attempt in attempts.items():
    try:
        attempt()
        outcome[name] = "done"
    except (OSError, MemoryError, ValueError) as error:
        outcome[name] = type(error).__name__
reread = os.open(f"/proc/self/fd/{handed}", os.O_RDONLY)
outcome["the handed file"] = os.read(reread, 100).decode()
held = ctypes.create_string_buffer(24)
libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), held)
outcome["capabilities"] = held.raw.hex()
seen = []
thread = threading.Thread(target=lambda: seen.append("ran"))
thread.start()
thread.join()
outcome["a thread"] = seen[0]
os.write(1, json.dumps(outcome).encode())
"""

TOO_LATE = """
import threading, time
from profilelake.query import jail
threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
jail.enter(jail.Cage(address_bytes=2 << 30, cpu_seconds=20), [])
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("jail")
    (directory / "secret").write_text("secret")
    (directory / "link").symlink_to(directory / "secret")
    (directory / "handed").write_text("handed over")
    with (directory / "handed").open() as handed:
        ran = subprocess.run(
            [sys.executable, "-c", INSIDE, str(directory), str(handed.fileno())],
            pass_fds=[handed.fileno()],
            capture_output=True,
            check=True,
        )
    assert sorted(path.name for path in directory.iterdir()) == ["handed", "link", "secret"]
    assert (directory / "handed").read_text() == "handed over"
    told: dict[str, str] = json.loads(ran.stdout)
    return told


def test_nothing_can_be_done_that_reaches_outside(outcome: dict[str, str]) -> None:
    attempts = {name: how for name, how in outcome.items() if name not in OTHERS}
    assert len(attempts) > 35
    assert [name for name, how in attempts.items() if how == "done"] == []
    assert set(outcome["capabilities"]) == {"0"}


def test_what_computing_needs_works(outcome: dict[str, str]) -> None:
    assert outcome["the handed file"] == "handed over"
    assert outcome["a thread"] == "ran"


def test_nobody_enters_with_threads_that_would_stay_outside() -> None:
    ran = subprocess.run([sys.executable, "-c", TOO_LATE], stderr=subprocess.PIPE, check=False, text=True)
    assert ran.returncode != 0
    assert "other threads" in ran.stderr


def test_a_system_without_a_jail_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jail.unavailable() is None
    monkeypatch.setattr(jail.platform, "machine", lambda: "pdp11")
    assert "pdp11" in str(jail.unavailable())
    monkeypatch.undo()
    monkeypatch.setattr(jail, "LANDLOCK_VERSION_MIN", 1_000)
    assert "too old" in str(jail.unavailable())


def test_the_calls_of_both_machines_are_the_same_where_both_have_them() -> None:
    (_, one), (_, other) = jail._SYSCALLS["x86_64"], jail._SYSCALLS["aarch64"]
    assert set(other) <= set(one)
    # What the newer machine does not have are calls that others have replaced there, and its ports.
    assert set(one) - set(other) == {
        "chmod", "chown", "fork", "futimesat", "inotify_init", "ioperm", "iopl", "lchown", "utime", "utimes", "vfork",
    }  # fmt: skip
    assert Path(jail.READABLE[0]).exists()
