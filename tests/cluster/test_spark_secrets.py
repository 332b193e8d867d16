"""What Spark is told by settings reaches it whole, and nobody reads it in the list of processes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from profilelake.engines.properties import _defaults
from profilelake.errors import Invalid

SECRET: Final = "geheim-7f3a"
VALUES: Final = [f"{SECRET} = : \\ # ! \t é 😀 'one' \"two\"", "\\u0041", "$HOME `id`", "a\nb", "#", "="]
"""What a shell, a file of properties or Java might take for something else."""
_CHILD: Final = """
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession
from profilelake.engines.session import open_engine
from profilelake.settings import EngineSettings
scratch, told, again = Path(sys.argv[1]), json.load(sys.stdin), {"spark.profilelake.second": "2"}
for conf in (told, again):
    engine = open_engine(EngineSettings(url="local[1]", driver_memory="600m", conf=conf), scratch, scratch)
    session = SparkSession.getActiveSession()
    found = dict(session.sparkContext.getConf().getAll())
    found["shuffle"] = session.conf.get("spark.sql.shuffle.partitions")
    found["jvm"] = str(session.sparkContext._jvm.ProcessHandle.current().pid())
    engine.close()
    print(json.dumps(found), flush=True)
"""


class Watched:
    """Command lines of this machine that hold the secret, looked at again and again, and those of Java."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.java: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = place.read_bytes()
                except OSError:
                    continue
                if SECRET.encode() in line:
                    self.seen.add(line)
                if b"SparkSubmit" in line:
                    self.java.add(line)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


@pytest.mark.parametrize("arguments", ["", "--properties-file {} pyspark-shell"])
def test_values_of_settings_are_in_no_process_list(tmp_path: Path, arguments: str) -> None:
    defaults = (
        "spark.profilelake.mine  as before\nspark.profilelake.v0 lost\nspark.sql.shuffle.partitions=7\\"
    )
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "spark-defaults.conf").write_text("" if arguments else defaults)
    (tmp_path / "named.conf").write_text(defaults)
    told = {f"spark.profilelake.v{number}": value for number, value in enumerate(VALUES)}
    environment = {**os.environ, "SPARK_CONF_DIR": str(tmp_path / "conf")}
    if arguments:
        environment["PYSPARK_SUBMIT_ARGS"] = arguments.format(tmp_path / "named.conf")
    with Watched() as watched:
        ran = subprocess.run(
            [sys.executable, "-c", _CHILD, str(tmp_path / "scratch")],
            input=json.dumps(told),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert ran.returncode == 0, ran.stderr
    first, second = (json.loads(line) for line in ran.stdout.splitlines())
    assert {name: first[name] for name in told} == told
    assert (first["spark.profilelake.mine"], first["shuffle"], first["spark.driver.memory"]) == (
        "as before",
        "7",
        "600m",
    )
    # The JVM stays for the second session of a process, which is told over its socket.
    assert (second["spark.profilelake.second"], second["jvm"]) == ("2", first["jvm"])
    assert watched.java, "nobody looked while Java ran"
    assert watched.seen == set()
    # Neither is there a file that holds them.
    holding = [p for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert holding == []


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match=r"nowhere.conf: No such file.*; correct it, or PYSPARK_SUBMIT_ARGS"):
        _defaults(tmp_path / "nowhere.conf")
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path / "none"))
    assert _defaults(None) == ""
