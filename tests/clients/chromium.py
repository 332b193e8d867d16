"""A headless Chromium of the system, driven through `browser.mjs`, and the site whose pages it opens."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STOP_SECONDS_MAX = 20
ENDED_LOOKS, ENDED_SECONDS = 300, 0.1
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""No name is found, so a request to somebody else is seen and goes nowhere."""


class Chromium:
    """One browser for many pages, each with cookies and storage of its own."""

    def __init__(self, driver: subprocess.Popen[str]) -> None:
        self._driver = driver

    def open(self, url: str) -> "Page":
        """Load a page."""
        return Page(self, self.ask(do="open", url=url))

    def ask(self, **command: Any) -> Any:
        """Have the driver do something, and return its answer."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(command) + "\n")
        self._driver.stdin.flush()
        line = self._driver.stdout.readline()
        assert line, f"the driver of Chromium ended while doing {command}"
        answer = json.loads(line)
        assert "error" not in answer, (command, answer)
        return answer["value"]


@dataclass(frozen=True)
class Page:
    """One open page."""

    browser: Chromium
    number: int

    def run(self, name: str, argument: Any = None) -> Any:
        """Call a function of the page."""
        return self.browser.ask(do="run", page=self.number, name=name, argument=json.dumps(argument))

    def offline(self, offline: bool) -> None:
        """Take the network away, or give it back."""
        self.browser.ask(do="offline", page=self.number, offline=offline)

    def forward(self, seconds: int) -> None:
        """Let the clock of the page jump, and the timers run that are due then."""
        self.browser.ask(do="forward", page=self.number, seconds=seconds)

    def leave(self) -> None:
        """Go somewhere else, as a visitor does."""
        self.browser.ask(do="leave", page=self.number)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every request since the page was opened, in order."""
        seen: list[dict[str, Any]] = self.browser.ask(do="requests", page=self.number)
        return seen

    def ended(self) -> list[dict[str, Any]]:
        """Return what became of every request; wait for those that are still under way."""
        for _ in range(ENDED_LOOKS):
            seen = self.requests
            if all(request["failure"] or request["status"] for request in seen):
                return seen
            time.sleep(ENDED_SECONDS)
        raise AssertionError(f"no answer came to {[request['url'] for request in seen]}")

    @property
    def messages(self) -> list[str]:
        """What the page said on its console."""
        said: list[str] = self.browser.ask(do="messages", page=self.number)
        return said

    def close(self) -> None:
        """Close the page and forget what it stored."""
        self.browser.ask(do="close", page=self.number)


@contextmanager
def chromium(modules: Path) -> Iterator[Chromium]:
    """Start Chromium with a profile that is thrown away; at the end it is gone."""
    executable = shutil.which("chromium")
    assert executable is not None, "Chromium is needed: apt-get install chromium"
    driver = subprocess.Popen(
        ["node", str(HERE / "browser.mjs"), str(modules), executable, NOWHERE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with driver:
            yield Chromium(driver)
            assert driver.stdin is not None
            driver.stdin.close()
            assert driver.wait(STOP_SECONDS_MAX) == 0
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()


@contextmanager
def site(modules: Path) -> Iterator[str]:
    """Serve our pages, and the SDKs they load, from an origin of their own."""
    files = {
        "/analytics_next.js": modules / "@segment/analytics-next/dist/umd/index.js",
        "/rudder_js.js": modules / "@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js",
    }

    class Site(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(files.get(path) or super().translate_path(path))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(HERE / "pages")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
