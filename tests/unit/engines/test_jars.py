"""Which JARs, and how they come here."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from profilelake.engines import jars
from profilelake.engines.jars import Jar
from profilelake.errors import Corrupt, Invalid, NotFound, Unavailable

CONTENT = b"the content of a jar" * 1000
JAR = Jar("org.example", "thing", "1.0", hashlib.sha256(CONTENT).hexdigest())


class Repository(BaseHTTPRequestHandler):
    """Serves one JAR, well or badly."""

    def do_GET(self) -> None:
        kind, _, path = self.path.lstrip("/").partition("/")
        if path != JAR.path:
            self.send_error(404)
        elif kind == "broken":
            self.send_error(503)
        else:
            body = (
                CONTENT
                if kind == "good"
                else CONTENT[:-1] + b"!"
                if kind == "other"
                else CONTENT[: len(CONTENT) // 2]
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Repository) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as made:
        yield made


class TestFetching:
    def test_it_is_there_whole(self, tmp_path: Path, url: str, client: httpx.Client) -> None:
        place = jars.fetch(JAR, tmp_path / "jars", f"{url}/good", client)
        assert place.read_bytes() == CONTENT
        assert [entry.name for entry in place.parent.iterdir()] == ["thing-1.0.jar"]

    def test_what_is_right_already_is_not_asked_for(self, tmp_path: Path, client: httpx.Client) -> None:
        (tmp_path / JAR.name).write_bytes(CONTENT)
        assert jars.fetch(JAR, tmp_path, "http://127.0.0.1:1", client).read_bytes() == CONTENT

    def test_what_is_wrong_is_replaced(self, tmp_path: Path, url: str, client: httpx.Client) -> None:
        (tmp_path / JAR.name).write_bytes(b"half of it")
        assert jars.fetch(JAR, tmp_path, f"{url}/good", client).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("kind", "error"),
        [("other", Corrupt), ("broken", Unavailable), ("half", Unavailable), ("good/x", NotFound)],
    )
    def test_anything_else_leaves_nothing(
        self, tmp_path: Path, url: str, client: httpx.Client, kind: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=r"fetching thing-1\.0\.jar"):
            jars.fetch(JAR, tmp_path, f"{url}/{kind}", client)
        assert list(tmp_path.iterdir()) == []

    def test_a_password_of_a_mirror_is_not_told(self, tmp_path: Path, client: httpx.Client) -> None:
        with pytest.raises(Unavailable) as raised:
            jars.fetch(JAR, tmp_path, "http://me:hidden@127.0.0.1:1/maven", client)
        assert "hidden" not in str(raised.value)


class TestChoosing:
    @pytest.mark.parametrize(("spark", "scala"), jars.RUNTIMES)
    def test_a_runtime_is_for_its_spark(self, spark: str, scala: str) -> None:
        runtime, bundle, driver = jars.jars_for(f"{spark}.9", scala)
        assert f"-{spark}_{scala}" in runtime.artifact
        assert bundle.version == runtime.version
        assert driver.artifact == "postgresql"
        assert jars.mismatch([runtime.name, bundle.name, driver.name], f"{spark}.1", scala) is None

    def test_there_is_none_for_others(self) -> None:
        with pytest.raises(Invalid, match=r"no Iceberg runtime for Spark 4\.3\.0 .* 4\.1 \(Scala 2\.13\)"):
            jars.jars_for("4.3.0", "2.13")

    def test_a_runtime_for_another_spark_is_named(self) -> None:
        wrong = jars.mismatch(["/x/iceberg-spark-runtime-3.5_2.12-1.10.2.jar"], "4.3.0", "2.13")
        assert wrong is not None
        assert "is for Spark 3.5 with Scala 2.12, this is Spark 4.3.0 with Scala 2.13" in wrong


class TestRepository:
    @pytest.mark.parametrize(
        ("mirror", "url"),
        [
            ("*", "https://mirror.example.org/maven"),
            ("central", "https://mirror.example.org/maven"),
            ("*,!central", "https://central"),
            ("other", "https://central"),
        ],
    )
    def test_a_mirror_of_mavens_settings_is_used(self, tmp_path: Path, mirror: str, url: str) -> None:
        settings = tmp_path / "settings.xml"
        settings.write_text(
            '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors><mirror><id>m</id>'
            f"<mirrorOf>{mirror}</mirrorOf><url>https://mirror.example.org/maven/</url></mirror></mirrors></settings>"
        )
        assert jars.repository("https://central/", settings) == url

    def test_without_them_the_setting_counts(self, tmp_path: Path) -> None:
        assert jars.repository("https://central/", tmp_path / "none.xml") == "https://central"

    @pytest.mark.parametrize("text", ["<settings>", '<!DOCTYPE a [<!ENTITY b "c">]><settings/>'])
    def test_what_cannot_be_read_is_told(self, tmp_path: Path, text: str) -> None:
        settings = tmp_path / "settings.xml"
        settings.write_text(text)
        with pytest.raises(Invalid, match=r"set engine\.maven_url"):
            jars.repository("https://central", settings)
