"""The command line as users and scripts meet it: what it prints, and the code it ends with."""

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

import profilelake
from command_line import COMMAND, Ran, clean_environment, run, run_process, told
from profilelake.settings import FORMAT, Layout
from served import Served, children_of, wait_until_dead

pytestmark = pytest.mark.timeout(240)

COMMANDS: tuple[tuple[str, ...], ...] = (
    (),
    ("serve",),
    ("status",),
    ("profile",),
    ("profile", "get"),
    ("profile", "history"),
    ("export",),
    ("sql",),
    ("compute",),
    ("lake",),
    *(("lake", name) for name in ("tables", "snapshots", "diff", "compact", "expire", "repair", "verify")),
    *(("lake", name) for name in ("duckdb", "materialize", "connect", "move")),
    ("schema",),
    ("verify",),
    ("rebuild",),
    ("demo",),
    ("source",),
    *(
        ("source", name)
        for name in ("add", "list", "show", "set", "disable", "enable", "rotate", "revoke-key")
    ),
    ("token",),
    *(("token", name) for name in ("issue", "list", "revoke")),
    ("destination",),
    *(("destination", name) for name in ("list", "show", "apply", "secret", "pause", "resume")),
    *(("destination", name) for name in ("resync", "dead", "replay", "discard", "diff")),
    ("import",),
    ("tail",),
    ("failed",),
    *(("failed", name) for name in ("list", "replay")),
    ("identity",),
    *(("identity", name) for name in ("why", "refusals", "history", "quarantine", "decisions", "plan")),
    *(("identity", name) for name in ("unlink", "relink", "remove", "retract", "restore", "release")),
    *(("identity", name) for name in ("leave", "rejoin")),
    ("plan",),
    ("apply",),
    ("privacy",),
    *(("privacy", name) for name in ("suppress", "unsuppress", "suppressed", "suppressions")),
    ("engine",),
    *(("engine", name) for name in ("check", "fetch", "jobs")),
    *(("engine", "jobs", name) for name in ("list", "show", "remove", "release")),
    ("validate",),
    ("diff",),
    ("test",),
    ("audience",),
    *(("audience", name) for name in ("list", "show", "members", "history", "preview")),
    *(("audience", name) for name in ("enable", "disable", "drop", "resync", "explain", "run")),
    ("trait",),
    *(("trait", name) for name in ("list", "show", "values", "history", "preview")),
    *(("trait", name) for name in ("enable", "disable", "drop", "resync", "explain", "run")),
    ("upgrade",),
    ("backup",),
    ("restore",),
    ("doctor",),
    ("version",),
)
READING: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("profile", "get", "user_id:1"),
    ("sql", "SELECT 1"),
    ("lake", "tables"),
    ("lake", "snapshots", "events"),
    ("lake", "diff", "events"),
    ("lake", "compact"),
    ("lake", "expire"),
    ("lake", "repair"),
    ("lake", "verify"),
    ("lake", "digest"),
    ("verify",),
    ("rebuild",),
)


@pytest.fixture(scope="module")
def shop(served: Served) -> Served:
    """Return the server with one known person."""
    event = {
        "messageId": "cli-1",
        "userId": "cli-user",
        "anonymousId": "cli-anonymous",
        "traits": {
            "email": "Cli@Example.org",
            "name": "[bold red]Ana\\[/]",
            "note": "bell \a and\x1b[31m red",
        },
    }
    assert served.post("/v1/identify", event).status == 200
    served.committed()
    return served


# ---- help, usage -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert b"Usage:" in ran.out


def test_the_list_of_commands_here_is_whole() -> None:
    listed = {
        line.split()[0] for line in run("--help").out.decode().partition("Commands:")[2].splitlines() if line
    }
    assert listed == {command[0] for command in COMMANDS if command}


def test_version() -> None:
    assert run("version").out.decode() == f"{profilelake.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly",), "No such command 'fly'"),
        (("sql",), "Missing argument"),
        (("sql", "a", "b"), "unexpected extra argument"),
        (("status", "--colour"), "No such option"),
        (("serve", "--port", "x"), "--port"),
        (("serve", "--port", "65536"), "http.port = 65536: give 0 to 65,535"),
        (("profile", "get", "a:b", "--collection", "cats"), "it is one of users, accounts"),
        (("demo", "--events", "0"), "--events"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], message: str) -> None:
    told(run(*arguments), 2, message)


# ---- which directory ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_directory_that_is_none_of_ours(command: tuple[str, ...], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    told(run(*command, "--dir", missing), 2, f"opening {missing}: not a profilelake data directory; name one")
    assert not missing.exists()
    told(run(*command, "--dir", tmp_path), 2, "not a profilelake data directory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [*READING, ("serve",)], ids=" ".join)
def test_a_directory_of_a_newer_program(command: tuple[str, ...], tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    (layout.directory / "FORMAT").write_text(f"{FORMAT + 1}\n")
    ran = (
        run_process(*command, "--dir", layout.directory)
        if command == ("serve",)
        else run(*command, "--dir", layout.directory)
    )
    told(ran, 4, f"format {FORMAT + 1}, this program reads {FORMAT}; upgrade profilelake")


def test_the_directory_may_come_from_the_environment(shop: Served) -> None:
    environment = {"PROFILELAKE_DIR": str(shop.directory)}
    ran = run_process("sql", "--json", "SELECT 1 AS one", environment=environment)
    assert ran.json == [{"one": 1}]


def test_a_directory_where_the_server_never_ran(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    status = run("status", "--dir", layout.directory, "--json")
    assert status.json["accepted"] == 0
    assert status.json["server"] is None
    told(run("profile", "get", "a:b", "--dir", layout.directory), 3, "start the server once")
    told(run("sql", "SELECT 1", "--dir", layout.directory), 3, "start the server once")
    told(run("lake", "tables", "--dir", layout.directory), 3, "start the server once")


# ---- status, profiles, tables ------------------------------------------------------------------


def test_status(shop: Served) -> None:
    asked = shop.get("/api/status").json
    ran = run("status", "--dir", shop.directory, "--json")
    assert ran.code == 0
    assert ran.json == {**asked, "server": shop.url}
    shown = run("status", "--dir", shop.directory).out.decode()
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert lines["accepted"] == f"{asked['accepted']:,}"
    assert lines["balanced"] == "yes"
    assert lines["server"] == shop.url


@pytest.mark.parametrize("id", ["user_id:cli-user", "anonymous_id:cli-anonymous", "email:CLI@example.org"])
def test_a_profile_by_any_of_its_identifiers(shop: Served, id: str) -> None:
    ran = run("profile", "get", id, "--dir", shop.directory)
    assert ran.code == 0
    found = ran.json
    assert found["identifiers"] == {
        "anonymous_id": ["cli-anonymous"],
        "email": ["cli@example.org"],
        "user_id": ["cli-user"],
    }
    assert found["traits"]["email"] == "Cli@Example.org"
    assert found["event_count"] == 1
    assert found["first_seen_at"] == found["last_seen_at"]
    by_its_own = run("profile", "get", found["profile_id"], "--dir", shop.directory)
    assert by_its_own.json == found


@pytest.mark.parametrize(
    ("id", "code"),
    [
        ("user_id:nobody", 3),
        ("no_such_type:x", 3),
        ("use_000000000000000000000000000", 3),
        ("", 2),
        ("nonsense", 2),
        (":x", 2),
        ("user_id:", 2),
        ("use_tooshort", 2),
        ("a\0b:x", 2),
    ],
)
def test_profiles_that_are_not_there_and_ids_that_are_none(shop: Served, id: str, code: int) -> None:
    told(run("profile", "get", id, "--dir", shop.directory), code, "profile get ")


def test_a_user_is_no_account(shop: Served) -> None:
    ran = run("profile", "get", "user_id:cli-user", "--collection", "accounts", "--dir", shop.directory)
    told(ran, 3, "no such profile in accounts")


def test_tables(shop: Served) -> None:
    tables = {row["table"]: row for row in run("lake", "tables", "--dir", shop.directory, "--json").json}
    assert tables.keys() >= {"events", "failed_events", "profiles", "identity_map", "set_map"}
    assert tables["events"]["rows"] >= 1
    assert Path(tables["events"]["metadata"]).is_file()
    assert Path(tables["events"]["location"]).is_dir()


# ---- SQL ---------------------------------------------------------------------------------------

VALUES = """
SELECT 9223372036854775807 AS int64, -1::TINYINT AS int8, 18446744073709551615::UBIGINT AS uint64,
    1.50::DECIMAL(10,2) AS decimal, 0.1::DOUBLE AS double, 'NaN'::DOUBLE AS nan, 'inf'::DOUBLE AS inf,
    TIMESTAMPTZ '2020-01-01 01:02:03+00' AS zoned, TIMESTAMP '2020-01-01 01:02:03.5' AS local,
    '2020-01-01 00:00:00.123456789'::TIMESTAMP_NS AS nanos, DATE '2020-01-01' AS day, TIME '01:02:03' AS time,
    INTERVAL 1 MONTH AS interval, '\\x00\\xff'::BLOB AS binary, true AS boolean, NULL AS nothing,
    [1, NULL] AS list, {'x': 1.5::DECIMAL(2,1)} AS struct, MAP {'k': TIME '00:00:01'} AS map,
    'a'::ENUM ('a') AS enum, '00000000-0000-0000-0000-000000000001'::UUID AS uuid, 'é"\n' AS text
"""
PLAIN = {
    "int64": 9223372036854775807,
    "int8": -1,
    "uint64": 18446744073709551615,
    "decimal": "1.50",
    "double": 0.1,
    "nan": None,
    "inf": None,
    "zoned": "2020-01-01T01:02:03.000000Z",
    "local": "2020-01-01T01:02:03.500000",
    "nanos": "2020-01-01T00:00:00.123456",
    "day": "2020-01-01",
    "time": "01:02:03.000000",
    "interval": "P1M0DT0.000000S",
    "binary": "00ff",
    "boolean": True,
    "nothing": None,
    "list": [1, None],
    "struct": {"x": "1.5"},
    "map": {"k": "00:00:01.000000"},
    "enum": "a",
    "uuid": "00000000-0000-0000-0000-000000000001",
    "text": 'é"\n',
}


def sql(shop: Served, query: str, *arguments: str | Path) -> Ran:
    return run("sql", "--dir", shop.directory, query, *arguments)


def test_every_type_as_json(shop: Served) -> None:
    assert sql(shop, VALUES, "--json").json == [PLAIN]
    assert sql(shop, VALUES, "--format", "json").json == [PLAIN]
    stored: list[dict[str, Any]] = sql(shop, "FROM events WHERE message_id = 'cli-1'", "--json").json
    assert stored[0]["received_at"].endswith("Z")
    assert bytes.fromhex(stored[0]["set_id"])


def test_results_of_no_rows_and_of_many(shop: Served) -> None:
    assert sql(shop, "SELECT 1 AS a WHERE false", "--json").json == []
    rows = sql(shop, "SELECT range AS n FROM range(10000)", "--json").json
    assert rows == [{"n": n} for n in range(10_000)]


def test_columns_of_one_name_are_told_apart(shop: Served) -> None:
    assert sql(shop, "SELECT 1 AS a, 2 AS a, 3 AS a_2", "--json").json == [{"a": 1, "a_2": 2, "a_2_2": 3}]


def test_csv_is_whole(shop: Served) -> None:
    long = "x" * 500
    ran = sql(
        shop, f"SELECT '{long}' AS text, ['[{long}'] AS list, 'ab'::BLOB AS b, NULL AS n", "--format", "csv"
    )
    assert ran.out.decode() == f'"text","list","b","n"\n"{long}","[""[{long}""]","6162",\n'


def test_arrow_and_parquet(shop: Served, tmp_path: Path) -> None:
    ran = sql(shop, "SELECT 1::BIGINT AS a", "--format", "arrow")
    assert pa.ipc.open_stream(ran.out).read_all().to_pylist() == [{"a": 1}]
    file = tmp_path / "result.parquet"
    ran = sql(shop, "SELECT 1::BIGINT AS a", "--format", "parquet", "-o", file)
    assert (ran.code, ran.out) == (0, b"")
    assert pyarrow.parquet.read_table(file).to_pylist() == [{"a": 1}]


def test_a_table_cannot_steer_the_terminal(shop: Served) -> None:
    query = "SELECT traits->>'name' AS \"[red]name\", traits->>'note' AS note FROM profiles "
    shown = sql(shop, query + "WHERE identifiers LIKE '%cli-user%'").out.decode()
    assert "[red]name" in shown
    assert "[bold red]Ana\\[/]" in shown
    assert "bell   and [31m red" in shown
    assert shown.replace("\n", "").isprintable()


def test_a_long_table_says_what_it_leaves_out(shop: Served) -> None:
    shown = sql(shop, "SELECT * FROM range(1500)").out.decode()
    assert "… 500 more rows; all of them with --format json" in shown


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"\n\nLINE 1: SELEC 1\n        ^'),
        ("SELECT nothing_such FROM events", '"nothing_such" not found'),
        ("FROM no_such_table", "no_such_table does not exist"),
        ("SELECT 'x'::INT", "Could not convert string 'x'"),
        ("SELECT * FROM '/no/such/file.parquet'", "/no/such/file.parquet"),
        ("", "no query that gives rows"),
    ],
)
def test_a_wrong_query_is_told_where(shop: Served, query: str, message: str) -> None:
    told(sql(shop, query), 2, message)


def test_a_wrong_format_or_file_is_told(shop: Served, tmp_path: Path) -> None:
    told(sql(shop, "SELECT 1", "--format", "xml"), 2, "it is one of table, arrow, parquet, csv, json, ndjson")
    told(sql(shop, "SELECT INTERVAL 1 DAY AS i", "--format", "parquet"), 2, "cast the column in the query")
    told(sql(shop, "SELECT 1", "-o", tmp_path / "no" / "such"), 5, "No such file or directory")


def test_a_reader_that_has_enough_is_no_failure(shop: Served) -> None:
    query = "SELECT range FROM range(1000000)"
    command = [*COMMAND, "sql", "--dir", str(shop.directory), "--json", query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b'[\n {"range'
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# ---- one owner ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("verify",), ("serve", "--port", "0")], ids=" ".join)
def test_a_directory_in_use_is_left_alone(shop: Served, command: tuple[str, ...]) -> None:
    ran = (
        run_process(*command, "--dir", shop.directory)
        if command[0] == "serve"
        else run(*command, "--dir", shop.directory)
    )
    told(ran, 4, f"opening {shop.directory}: in use by process {shop.process.pid} since")
    assert shop.request("GET", "/readyz").status == 200
    assert run("status", "--dir", shop.directory, "--json").json["server"] == shop.url


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        environment = {
            f"PROFILELAKE_{name}": "given" + name for name in ("WRITE_KEY", "READ_TOKEN", "ADMIN_TOKEN")
        }
        ran = run_process("serve", "--dir", tmp_path / "data", "--port", str(port), environment=environment)
    told(ran, 5, f"listening on 127.0.0.1:{port}: Address already in use; choose another --port")


# ---- starting and ending


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_asked_to_end_while_it_starts_leaves_nobody(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "serve", "--dir", str(tmp_path / "data"), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=clean_environment()) as process:
        try:
            children: dict[int, str] = {}
            deadline = time.monotonic() + 60
            while not children and time.monotonic() < deadline:
                children = children_of(process.pid)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, b"Traceback" in err, b"ready" in err) == (0, False, False), err
    assert children
    assert wait_until_dead(list(children)) == []
