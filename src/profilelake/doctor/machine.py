"""The machine and what is installed on it: limits, kernel, compiled code, libraries, the port."""

import ctypes
import errno
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import profilelake
from profilelake.doctor.findings import Finding, Patient, fine, problem, warning
from profilelake.engines.checks import before_start
from profilelake.engines.choosing import embedded

DESCRIPTORS_MIN: Final = 4096
SHARED_BYTES_MIN: Final = 64 << 20
CACHE_FILES_MIN: Final = 10
"""Fewer compiled functions than this mean that the next start compiles, for about a minute."""
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_VERSION: Final = 1
_LIBRARIES: Final = ("pyiceberg", "duckdb", "pyarrow", "numba", "numpy", "lmdb", "msgspec", "uvicorn")


def limits(_: Patient) -> Iterator[Finding]:
    """May processes open enough files, and is there shared memory?"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS_MIN:
        yield warning(
            "open files",
            f"a process may have {soft:,} (at most {hard:,}); every connection, segment and table file is one",
            f"ulimit -n {DESCRIPTORS_MIN} before the start, or LimitNOFILE= of the service",
        )
    else:
        yield fine("open files", f"a process may have {soft:,}")
    shared = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    free = shutil.disk_usage(shared).free if shared.exists() else 0
    if free < SHARED_BYTES_MIN:
        yield warning(
            "shared memory",
            f"{shared} has {free:,} bytes free",
            "start the container with --shm-size=256m, or make room there",
        )
    else:
        yield fine("shared memory", f"{shared} has {free:,} bytes free")


def jail(_: Patient) -> Iterator[Finding]:
    """Can the kernel jail the process that runs users' SQL?"""
    version = ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version >= 1:
        yield fine("jail", f"Linux {platform.release()}: Landlock {version}")
    else:
        yield warning(
            "jail",
            f"Linux {platform.release()} offers no Landlock ({os.strerror(ctypes.get_errno())}): "
            "SQL of users cannot be jailed by it",
            "a kernel from 5.13 on with landlock among lsm=; inside a container also a seccomp profile that lets it",
        )


def compiled(patient: Patient) -> Iterator[Finding]:
    """Is there a place for compiled code, and is it filled?"""
    cache = patient.kernel_cache
    files = sum(1 for _ in cache.rglob("*.nbc")) if cache.exists() else 0
    if cache.exists() and not os.access(cache, os.W_OK):
        yield warning(
            "compiled code",
            f"{cache} cannot be written to: every start compiles",
            "chown it, or set NUMBA_CACHE_DIR",
        )
    elif files < CACHE_FILES_MIN:
        yield warning(
            "compiled code",
            f"{files} functions in {cache}: the next start takes about a minute",
            "start once",
        )
    else:
        yield fine("compiled code", f"{files} functions in {cache}")


def port(patient: Patient) -> Iterator[Finding]:
    """Can the server listen where the settings say?"""
    http = patient.settings.http
    if patient.server is not None:
        yield fine("port", f"the server answers on {patient.server}")
        return
    if http.port == 0:
        yield fine("port", "a free one is taken at the start")
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        yield problem(
            "port",
            f"{http.host}:{http.port}: {error.strerror or error}",
            f"see who has it: ss -ltnp 'sport = :{http.port}'; or profilelake serve --port OTHER"
            if taken
            else "profilelake serve --host ADDRESS with an address of this machine",
        )
    else:
        yield fine("port", f"{http.host}:{http.port} is free")


def engine(patient: Patient) -> Iterator[Finding]:
    """Can batch plans run where the settings say?"""
    options = patient.settings.engine
    if embedded(options):
        yield fine("engine", "plans run on this machine")
        return
    troubles = list(before_start(options, patient.layout.directory, os.environ))
    for trouble in troubles:
        yield problem(f"engine: {trouble.what}", trouble.text, trouble.fix)
    if not troubles:
        shown = options.url.partition(";")[0]
        yield fine("engine", f"{shown} answers; profilelake engine check tries a job there")


def versions(_: Patient) -> Iterator[Finding]:
    """What is installed?"""
    found = [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]
    yield fine(
        "versions",
        f"profilelake {profilelake.__version__}, Python {platform.python_version()}, {', '.join(found)}",
    )
