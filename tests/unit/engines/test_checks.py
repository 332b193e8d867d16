"""What is in the way of work on a cluster is found before it starts."""

import socket
import sys
from pathlib import Path

import pytest

from profilelake.engines import checks
from profilelake.engines.checks import before_start, on_cluster, ready
from profilelake.engines.choosing import engine_of
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.errors import Invalid
from profilelake.lake.storage import LocalStorage
from profilelake.settings import EngineSettings


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark 4.1 with all that it needs, as far as one can see from here."""
    monkeypatch.setattr(checks, "_installed", lambda _: "4.1.4")
    monkeypatch.setattr(checks, "spark_here", lambda: ("4.1.4", "2.13"))
    monkeypatch.setattr(checks, "find_spec", lambda _: object())


def java(folder: Path, version: str) -> dict[str, str]:
    """Return an environment with a Java that says it is of a version."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-01' >&2\n")
    program.chmod(0o755)
    return {"JAVA_HOME": str(folder), "PATH": "/usr/bin:/bin"}


def found(options: EngineSettings, directory: Path, environment: dict[str, str]) -> dict[str, str]:
    return {trouble.what: trouble.text for trouble in before_start(options, directory, environment)}


class TestBeforeStart:
    def test_the_embedded_engine_needs_nothing(self, tmp_path: Path) -> None:
        assert found(EngineSettings(), tmp_path, {}) == {}
        assert found(EngineSettings(url="embedded"), tmp_path, {}) == {}

    @pytest.mark.usefixtures("spark")
    def test_all_is_well(self, tmp_path: Path) -> None:
        environment = java(tmp_path / "java", "17.0.15")
        assert found(EngineSettings(url="local[2]"), tmp_path, environment) == {}

    def test_a_wrong_url(self, tmp_path: Path) -> None:
        assert "no such engine" in found(EngineSettings(url="sprak://a:1"), tmp_path, {})["master"]

    def test_no_pyspark(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(checks, "_installed", lambda _: None)
        (trouble,) = before_start(EngineSettings(url="local[2]"), tmp_path, {})
        assert trouble.fix == "pip install 'profilelake[spark]'"

    @pytest.mark.usefixtures("spark")
    def test_a_pyspark_that_was_never_tried(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(checks, "_installed", lambda _: "4.3.0")
        told = found(EngineSettings(url="local[2]"), tmp_path, java(tmp_path / "java", "21"))
        assert "pyspark 4.3.0 was never tried" in told["pyspark"]

    @pytest.mark.parametrize(("version", "wrong"), [("1.8.0_402", "8"), ("11.0.2", "11")])
    @pytest.mark.usefixtures("spark")
    def test_a_java_that_is_too_old(self, tmp_path: Path, version: str, wrong: str) -> None:
        told = found(EngineSettings(url="local[2]"), tmp_path, java(tmp_path / "java", version))
        assert f"is version {wrong}: Spark 4.1.4 needs 17 or newer" in told["java"]

    @pytest.mark.usefixtures("spark")
    def test_no_java(self, tmp_path: Path) -> None:
        assert "no Java" in found(EngineSettings(url="local[2]"), tmp_path, {"PATH": str(tmp_path)})["java"]
        told = found(EngineSettings(url="local[2]"), tmp_path, {"JAVA_HOME": str(tmp_path)})
        assert "does not run" in told["java"]

    @pytest.mark.usefixtures("spark")
    def test_a_master_that_does_not_answer(self, tmp_path: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"sc://127.0.0.1:{unused.getsockname()[1]}/;token=hidden"
            told = found(EngineSettings(url=url), tmp_path, {})
        assert "does not answer" in told["master"]
        assert "hidden" not in told["master"]

    @pytest.mark.usefixtures("spark")
    def test_one_master_of_two_is_enough(self, tmp_path: Path) -> None:
        environment = java(tmp_path / "java", "17.0.1")
        with socket.create_server(("127.0.0.1", 0)) as there:
            url = f"spark://127.0.0.1:1,127.0.0.1:{there.getsockname()[1]}"
            assert found(EngineSettings(url=url), tmp_path, environment) == {}

    @pytest.mark.usefixtures("spark")
    def test_yarn_that_nobody_says_where(self, tmp_path: Path) -> None:
        environment = java(tmp_path / "java", "17.0.1")
        assert "nothing says where" in found(EngineSettings(url="yarn"), tmp_path, environment)["master"]

    @pytest.mark.parametrize(
        "conf",
        [
            {"spark.jars": "/x/iceberg-spark-runtime-3.5_2.12-1.10.2.jar"},
            {"spark.jars.packages": "a:b:1,org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.2"},
        ],
    )
    @pytest.mark.usefixtures("spark")
    def test_a_runtime_for_another_spark(self, tmp_path: Path, conf: dict[str, str]) -> None:
        environment = java(tmp_path / "java", "17.0.1")
        told = found(EngineSettings(url="local[2]", conf=conf), tmp_path, environment)
        assert "is for Spark 3.5 with Scala 2.12, this is Spark 4.1.4" in told["jars"]

    @pytest.mark.usefixtures("spark")
    def test_a_runtime_for_another_spark_in_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "jars").mkdir()
        (tmp_path / "jars" / "iceberg-spark-runtime-4.0_2.13-1.11.0.jar").touch()
        told = found(EngineSettings(url="local[2]"), tmp_path, java(tmp_path / "java", "17.0.1"))
        assert "is for Spark 4.0" in told["jars"]

    @pytest.mark.parametrize("memory", ["much", "12m", "100000g"])
    @pytest.mark.usefixtures("spark")
    def test_memory_that_cannot_be(self, tmp_path: Path, memory: str) -> None:
        environment = java(tmp_path / "java", "17.0.1")
        options = EngineSettings(url="local[2]", driver_memory=memory)
        assert "driver_memory" in found(options, tmp_path, environment)["memory"]

    def test_work_is_refused_with_the_line_that_helps(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match=r"running on sprak://x: .*; set \[engine\] url, or give --engine"):
            ready(EngineSettings(url="sprak://x"), tmp_path, {})


class TestOnTheCluster:
    def test_all_is_well(self, tmp_path: Path) -> None:
        storage = LocalStorage(str(tmp_path / "lake"))
        assert list(on_cluster(EmbeddedEngine(tmp_path / "engine"), storage)) == []
        assert [file.location for file in storage.list(storage.root)] == []

    def test_executors_that_are_not_like_the_driver(self, tmp_path: Path) -> None:
        here = checks.Look(LocalStorage(str(tmp_path)), str(tmp_path))
        seen = checks.msgspec.msgpack.decode(here(1), type=checks.Seen)
        other = checks.msgspec.structs.replace(
            seen, python="3.10.2", profilelake="0.0.1", memory=512 << 20, cache="/root"
        )
        told = {trouble.what: trouble.text for trouble in checks._unlike([seen, other, other])}
        # The first of a host stands for it.
        assert told == {}
        told = {trouble.what: trouble.text for trouble in checks._unlike([other])}
        assert told.keys() == {"python", "profilelake", "compiled code", "memory"}
        assert "has Python 3.10.2" in told["python"]

    def test_executors_that_do_not_see_the_lake(self, tmp_path: Path) -> None:
        storage = LocalStorage(str(tmp_path))
        seen = checks.msgspec.msgpack.decode(checks.Look(storage, f"{tmp_path}/none")(1), type=checks.Seen)
        assert not seen.reads
        (trouble,) = checks._places([seen], storage, f"{tmp_path}/none")
        assert "does not see the files of this machine" in trouble.text


class TestChoosing:
    def test_empty_is_this_machine(self, tmp_path: Path) -> None:
        engine = engine_of(EngineSettings(tasks=3), tmp_path)
        assert (engine.name, engine.tasks) == ("embedded", 3)

    def test_spark_that_is_missing_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "pyspark", None)
        monkeypatch.setattr("profilelake.engines.choosing.find_spec", lambda _: None)
        with pytest.raises(Invalid, match=r"pip install 'profilelake\[spark\]'"):
            engine_of(EngineSettings(url="local[2]"), tmp_path)
