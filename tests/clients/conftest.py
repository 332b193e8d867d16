"""What the real clients need: their packages, a browser, and a server with a proxy in front of it."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chromium import HERE, Chromium, chromium, site
from sdks import Sdk, made

INSTALL_SECONDS_MAX = 300


@pytest.fixture(scope="session")
def modules(pytestconfig: pytest.Config) -> Path:
    """Return a folder with the npm packages of `package-lock.json`, all checked against it."""
    files = [HERE / name for name in ("package.json", "package-lock.json", ".npmrc")]

    def install(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)

    return _installed(pytestconfig, "npm", files, install) / "node_modules"


@pytest.fixture(scope="session")
def rudder_python(pytestconfig: pytest.Config) -> Path:
    """Return the interpreter of an environment with `rudder-sdk-python`, apart from the project's own."""
    requirements = HERE / "rudder_python.txt"

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _run([*pip, "install", "--require-hashes", "--only-binary=:all:", "-r", str(requirements)], folder)

    return _installed(pytestconfig, "rudder_python", [requirements], install) / "bin/python"


def _installed(config: pytest.Config, name: str, files: list[Path], install: Callable[[Path], None]) -> Path:
    """Return a folder of pytest's cache that `install` has filled; anew if one of `files` changed."""
    assert config.cache is not None
    cache = config.cache.mkdir("clients")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    folder, done = cache / name, cache / f"{name}.done"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers share it
        if not done.exists() or done.read_text() != digest:
            done.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            done.write_text(digest)
    return folder


def _run(command: list[str], folder: Path) -> None:
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX, check=False
    )
    assert ended.returncode == 0, f"{command} failed:\n{ended.stdout}{ended.stderr}"


@pytest.fixture(scope="session")
def browser(modules: Path) -> Iterator[Chromium]:
    """A Chromium for all tests of the run."""
    with chromium(modules) as running:
        yield running


@pytest.fixture(scope="session")
def pages(modules: Path) -> Iterator[str]:
    """The address of a shop whose pages load the browser SDKs."""
    with site(modules) as address:
        yield address


@pytest.fixture
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Return the SDK the parameter names."""
    return made(request.param, request.getfixturevalue)
