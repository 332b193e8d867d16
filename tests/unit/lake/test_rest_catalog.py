"""Where the secret of a REST catalog goes, and where not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from profilelake.errors import Invalid
from profilelake.lake.catalogs import open_catalog
from profilelake.lake.place import SECRET_VARIABLE, LakePlace


@contextmanager
def server(location: str = "") -> Iterator[tuple[str, list[bytes]]]:
    """Run a server that sends everybody to a location; give its address and the bodies it was sent."""
    bodies: list[bytes] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(307)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", bodies
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakePlace:
    monkeypatch.setenv(SECRET_VARIABLE, "key:hidden")
    return LakePlace("https://rest.example.org", f"file://{tmp_path}")


def test_the_secret_does_not_follow_a_redirection(place: LakePlace) -> None:
    with server() as (elsewhere, stolen), server(f"{elsewhere}/token") as (catalog, asked):
        with pytest.raises(Invalid, match=r"sends us elsewhere \(307\)") as told:
            open_catalog(replace(place, catalog=catalog))
        assert len(asked) == 1
        assert stolen == []
        assert "hidden" not in str(told.value)


def test_the_secret_of_a_catalog_with_tls_does_not_pass_without(place: LakePlace) -> None:
    with server() as (plain, asked):
        with pytest.raises(Invalid, match=r"oauth2-server-uri .* is without TLS"):
            open_catalog(replace(place, options=f"oauth2-server-uri={plain}/token"))
        assert asked == []
