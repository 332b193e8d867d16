"""The tools that break a disk from outside the process: a C shim, strace, small and forgetful file systems.

They are real and needed: where one is missing the test fails and says what to install.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHIM_SOURCE = Path(__file__).with_name("eventlog_shim.c")
ATTACH_SECONDS_MAX = 20.0
UNMOUNT_SECONDS_MAX = 10.0
EXT4_SHUTDOWN = 0x8004587D
"""The ioctl that ends an ext4 file system as a power cut would."""
WITHOUT_FLUSH = 2


def needed(tool: str, package: str) -> str:
    """Return where a tool is."""
    found = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert found, f"this test needs {tool}: apt-get install {package}"
    return found


def build_shim(directory: Path) -> Path:
    """Compile the shim and return what LD_PRELOAD must name."""
    shim = directory / "eventlog_shim.so"
    command = [needed("cc", "gcc libc6-dev"), "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(shim), str(SHIM_SOURCE), "-ldl"], check=True)
    return shim


@contextmanager
def injected(process: int, fault: str) -> Iterator[None]:
    """Have strace put a fault into the system calls of a running process, such as `fdatasync:error=EIO`."""
    calls = fault.partition(":")[0]
    tasks = Path(f"/proc/{process}/task")
    options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={fault}"]
    tracer = subprocess.Popen(
        [needed("strace", "strace"), *options, "-p", str(process)],
        stderr=subprocess.PIPE,
    )
    try:
        give_up_at = time.monotonic() + ATTACH_SECONDS_MAX
        while not all(_traced(task) for task in tasks.iterdir()):
            assert tracer.poll() is None, f"strace ended: {tracer.communicate()[1]!r}"
            assert time.monotonic() < give_up_at, "strace did not attach"
            time.sleep(0.01)
        yield
    finally:
        tracer.send_signal(signal.SIGTERM)
        tracer.communicate(timeout=30)


def _traced(task: Path) -> bool:
    try:
        words = task.joinpath("status").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return words[words.index("TracerPid:") + 1] != "0"


def _mount(place: Path, kind: str, source: str, options: str) -> None:
    command = [needed("mount", "mount"), "-t", kind, "-o", options, source, str(place)]
    ran = subprocess.run(command, capture_output=True, check=False)
    assert ran.returncode == 0, f"this test must be allowed to mount (run it as root): {ran.stderr!r}"


def _unmount(place: Path) -> None:
    """Unmount once nobody uses a file system any more, as it must be before it is mounted again."""
    command = [needed("umount", "mount"), str(place)]
    give_up_at = time.monotonic() + UNMOUNT_SECONDS_MAX
    while (ran := subprocess.run(command, capture_output=True, check=False)).returncode != 0:
        if time.monotonic() > give_up_at:
            subprocess.run([*command, "--lazy"], check=True)
            raise AssertionError(f"somebody still uses {place}: {ran.stderr!r}")
        time.sleep(0.05)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """Give a disk of `size` bytes."""
    place.mkdir()
    _mount(place, "tmpfs", "tmpfs", f"size={size}")
    try:
        yield place
    finally:
        # Lazily: the commands of a test run in its own process, which still has files open there.
        subprocess.run([needed("umount", "mount"), "--lazy", str(place)], check=True)


class ForgetfulDisk:
    """A real ext4 on a file, whose power can be cut: what was not synced is gone when it is on again."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        self._image = place.with_suffix(".img")
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        subprocess.run([needed("mkfs.ext4", "e2fsprogs"), "-q", str(self._image)], check=True)

    @contextmanager
    def on(self) -> Iterator[Path]:
        """Mount it, as it was left. At the end nobody may use it any more."""
        self.place.mkdir(exist_ok=True)
        _mount(self.place, "ext4", str(self._image), "loop")
        try:
            yield self.place
        finally:
            _unmount(self.place)

    def cut_power(self) -> None:
        """Lose everything that is not on the disk yet. Until it is on again, every access fails."""
        top = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(top, EXT4_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(top)


class SkewedClock:
    """A wall clock that processes started with `environment` believe, and that a test moves."""

    def __init__(self, directory: Path, shim: Path) -> None:
        self._file = directory / "clock"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(shim), "FAULT_CLOCK": str(self._file)}

    def move(self, seconds: float) -> None:
        """Set the clock off by so much, from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", round(seconds * 1_000_000)))
