"""Real servers for tests of a cluster, on loopback, each ended by whoever started it."""

import contextlib
import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
BUCKET: Final = "profilelake"
TABLE_BUCKET: Final = "tables"


@dataclass(frozen=True)
class S3Server:
    """SeaweedFS: S3, and an Iceberg REST catalog over the bucket `tables`."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    catalog: str
    """URL of the REST catalog; its OAuth credential is `access_key:secret_key`, its warehouse `s3://tables/`."""
    warehouse: str


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, all different, below those that the kernel gives away."""
    found: list[int] = []
    begin = 12_000 + os.getpid() * 37 % 8_000
    for port in range(begin, begin + 10_000):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


@contextlib.contextmanager
def process(
    command: list[str],
    log: Path,
    environment: dict[str, str],
    user: str | None = None,
    *,
    keep_open: bool = False,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; at the end ask it to stop by a signal, and end it if it does not."""
    with log.open("wb") as sink:
        running = subprocess.Popen(
            command,
            # One that reads its input ends with this process, however that ends.
            stdin=subprocess.PIPE if keep_open else subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            user=user,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        if running.stdin is not None:
            running.stdin.close()
        for number, seconds in ((stop, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(seconds)
                break


def wait_for(what: str, ready: Callable[[], bool], running: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers; tell what it wrote when it does not."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if ready():
            return
        if running.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"{what} is not ready: {log.read_text(errors='replace')[-4000:]}")


def accepts(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _lists(endpoint: str, key: str, secret: str) -> bool:
    # Loaded here: it is in the environment of those who have this server alone.
    import obstore  # noqa: PLC0415
    from obstore.exceptions import BaseError  # noqa: PLC0415
    from obstore.store import S3Store  # noqa: PLC0415

    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=key,
        secret_access_key=secret,
        client_options={"allow_http": True},
    )
    try:
        obstore.list(store).collect()
    except (BaseError, FileNotFoundError):
        return False
    return True


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[S3Server]:
    """Run an S3 server with an Iceberg REST catalog in one process."""
    weed = Path(sys.executable).parent / "weed"
    program = str(weed) if weed.exists() else shutil.which("weed")
    if program is None:
        raise RuntimeError("no SeaweedFS: make test-cluster installs it")
    names = ("master", "volume", "filer", "s3", "iceberg")
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names[:4])], free_ports(9), strict=True))
    data = folder / "data"
    data.mkdir(parents=True)
    key, secret = "profilelake-test", "profilelake-test-secret"
    command = [
        program,
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.lance=0",
        f"-s3.port.iceberg={ports['iceberg']}",
        f"-bucket={BUCKET}",
        f"-tableBucket={TABLE_BUCKET}",
    ]
    for name in names[:4]:
        command += [f"-{name}.port={ports[name]}", f"-{name}.port.grpc={ports[f'{name}.grpc']}"]
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "HOME": str(folder),
    }
    log = folder / "weed.log"
    with process(command, log, environment) as running:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        catalog = f"http://127.0.0.1:{ports['iceberg']}"
        wait_for("S3", lambda: _answers(endpoint) and _answers(f"{catalog}/v1/config"), running, log)
        # It makes the bucket only after it has begun to answer.
        wait_for("the bucket", lambda: _lists(endpoint, key, secret), running, log)
        yield S3Server(endpoint, key, secret, BUCKET, catalog, f"s3://{TABLE_BUCKET}/")


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server of its own; yield its URL."""
    binaries = _postgresql_binaries()
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    # PostgreSQL does not run as root.
    user = None
    if os.getuid() == 0:
        user = "postgres"
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in folder.parents:
            if parent.stat().st_uid == os.getuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "profilelake", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
        user=user,
    )
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=32MB"]
    log = folder.parent / f"{folder.name}.log"
    # By SIGTERM it would wait for whoever is still connected.
    with process(command, log, environment, user, stop=signal.SIGINT) as running:
        ask = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(
            "PostgreSQL",
            lambda: subprocess.run(ask, env=environment, check=False).returncode == 0,
            running,
            log,
        )
        yield f"postgresql://profilelake@127.0.0.1:{port}/postgres"


def _postgresql_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program is None:
        raise RuntimeError("no PostgreSQL: apt-get install postgresql")
    return Path(program).parent
