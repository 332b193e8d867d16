"""Suppressed people, through the server users run: nothing of theirs is stored, anywhere, and all is counted."""

import gzip
import json
import os
import signal
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import COMMAND, clean_environment, run
from served import ADMIN_TOKEN, Served, serving, stopped

pytestmark = pytest.mark.timeout(240)

MARK = "withheld"
"""Stands in everything that belongs to suppressed people, and in nothing else."""
EMAIL = f"{MARK}.ana@example.org"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # The list is the server's: one of its own, so that nobody else's events are judged by it.
    with serving(tmp_path_factory.mktemp("suppression") / "data") as running:
        yield running


def admin(served: Served, method: str, path: str, body: object = None) -> Any:
    answer = served.request(
        method,
        path,
        b"" if body is None else body,
        authorization=f"Bearer {ADMIN_TOKEN}",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 200, answer.body
    return answer.json["data"]


def suppress(served: Served, type: str, *values: str) -> None:
    admin(served, "POST", "/api/suppressions", {"subjectType": type, "subjectIds": values})
    # The other collecting process may be a second behind; until then landing judges alone.
    assert admin(served, "POST", "/api/suppressions/check", {"subjectType": type, "subjectIds": values}) == {
        "suppressed": [True] * len(values)
    }


def wait_for_collect(served: Served) -> None:
    """Return when every collecting process has the list of now, told by its own count and not by the clock."""
    suppress(served, "USER_ID", "probe")
    message = {"type": "track", "userId": "probe", "event": "Probe"}
    for _ in range(200):
        before = counted(served)
        for _ in range(32):
            assert served.post("/v1/batch", {"batch": [message]}).status == 200
        if counted(served) - before == 32:
            return
    raise AssertionError("collect does not see the list")


def counted(served: Served) -> float:
    lines = served.get("/metrics").body.decode().splitlines()
    name = "profilelake_collect_suppressed_events_total "
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def bytes_with(directory: Path, mark: str) -> list[str]:
    """Return the files under a directory that contain a text, be it in a gzip body of the log."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            parts = [data, *(_inflated(data[at:]) for at in _gzip_starts(data))]
            if any(mark.encode() in part for part in parts):
                found.append(str(path.relative_to(directory)))
    return found


def _gzip_starts(data: bytes) -> Iterator[int]:
    at = data.find(b"\x1f\x8b\x08")
    while at >= 0:
        yield at
        at = data.find(b"\x1f\x8b\x08", at + 1)


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data)
    except zlib.error:
        return b""


def track(**fields: Any) -> dict[str, Any]:
    return {"type": "track", "event": f"{MARK} event", **fields}


FORMS: list[dict[str, Any]] = [
    track(userId=f"{MARK}-u"),
    track(userId=f"{MARK}-u", messageId=f"{MARK}-m", properties={"about": MARK}),
    track(anonymousId="a-1", context={"traits": {"email": EMAIL.upper()}}),
    track(anonymousId="a-1", properties={"email": f"  {EMAIL} "}),
    {"type": "identify", "anonymousId": "a-2", "traits": {"email": EMAIL, "name": MARK}},
    {"type": "identify", "userId": f"{MARK}-u", "traits": []},
    {"type": "group", "userId": f"{MARK}-u", "groupId": "g-1", "traits": {"note": MARK}},
    {"type": "alias", "userId": "u-new", "previousId": f"{MARK}-u"},
    track(
        anonymousId="a-1",
        context={
            "externalIds": [{"id": f"{MARK}-p", "type": "phone", "collection": "users", "encoding": "none"}]
        },
    ),
    # Refused in any case, and kept as they were sent if they were not about somebody suppressed.
    {"type": "track", "userId": f"{MARK}-u"},
    {"type": "nonsense", "userId": f"{MARK}-u"},
    track(userId=f"{MARK}-u", context=[1]),
]


def test_nothing_of_suppressed_people_is_stored_in_whatever_form_it_comes(served: Served) -> None:
    before = served.committed()
    suppress(served, "USER_ID", f"{MARK}-u")
    suppress(served, "EMAIL", EMAIL)
    suppress(served, "phone", f"{MARK}-p")
    wait_for_collect(served)
    start = served.committed()
    neighbour = {"type": "track", "event": "Kept", "userId": "neighbour"}
    sent = 0
    for number, form in enumerate(FORMS):
        batch = {"batch": [neighbour | {"messageId": f"kept-{number}"}, form]}
        assert served.post("/v1/batch", batch).status == 200
        packed = gzip.compress(json.dumps({"batch": [form, form]}).encode())
        assert served.post("/v1/batch", packed, **{"Content-Encoding": "gzip"}).status == 200
        nan = json.dumps(
            batch | {"batch": [form, {"type": "page", "userId": "nan", "properties": {"x": float("nan")}}]}
        )
        assert served.post("/v1/batch", nan.encode()).status == 200
        sent += 1 + 2 + 1
        if form["type"] in ("identify", "track", "group", "alias"):
            path = f"/v1/{form['type']}"
            assert served.post(path, {**form, "type": None}).status == 200
            sent += 1
    inherited = {"context": {"traits": {"email": EMAIL}}, "batch": [track(anonymousId="a-9")]}
    assert served.post("/v1/batch", inherited).status == 200
    status = served.committed()
    assert status["balanced"]
    assert status["in_flight"] == 0
    assert status["suppressed"] - start["suppressed"] == sent + 1
    assert status["failed"] == before["failed"]
    assert [
        row["message_id"] for row in served.sql("FROM events WHERE user_id = 'neighbour' ORDER BY position")
    ] == [f"kept-{number}" for number in range(len(FORMS))]
    assert served.sql("FROM failed_events") == []
    assert bytes_with(served.directory / "log", MARK) == []
    assert bytes_with(served.directory, MARK) == []
    assert bytes_with(served.directory.parent, MARK) == []  # nor in what the processes said
    answer = served.get(f"/v1/spaces/default/collections/users/profiles/user_id:{MARK}-u/traits", "rk_served")
    assert answer.status == 404


def test_what_nobody_is_suppressed_in_stays_byte_for_byte(served: Served) -> None:
    suppress(served, "USER_ID", f"{MARK}-u")
    body = gzip.compress(b'{ "batch" : [ {"type":"page","userId":"byte-for-byte" } ] }')
    assert served.post("/v1/batch", body, **{"Content-Encoding": "gzip"}).status == 200
    assert any(body in path.read_bytes() for path in (served.directory / "log").rglob("*") if path.is_file())


def test_landing_judges_what_was_received_before_and_lands_after(served: Served) -> None:
    """The pipeline stands still and is killed; its successor lands by the list as it is then."""
    start = served.committed()
    pipeline = next(
        pid
        for pid in _children(served)
        if b"pipeline" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )
    with stopped(pipeline):
        body = {"batch": [track(userId="late-withheld"), {"type": "track", "userId": "late-withheld"}]}
        assert served.post("/v1/batch", body).status == 200
        ran = run("privacy", "suppress", "user_id:late-withheld", "--dir", served.directory, "--json")
        assert ran.code == 0
        assert json.loads(ran.out) == {"suppressed": 1, "added": 1}
        os.kill(pipeline, signal.SIGKILL)
    status = served.committed()
    assert status["balanced"]
    assert status["suppressed"] - start["suppressed"] == 2
    assert served.sql("FROM events WHERE user_id = 'late-withheld'") == []
    assert served.sql("FROM failed_events") == []


def _children(served: Served) -> list[int]:
    pid = served.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_unsuppressed_people_are_stored_again_and_those_in_between_are_not(served: Served) -> None:
    suppress(served, "USER_ID", "back")
    assert served.post("/v1/track", track(userId="back", messageId="between")).status == 200
    assert served.committed()["balanced"]
    body = {"subjectType": "USER_ID", "subjectIds": ["back"]}
    assert admin(served, "POST", "/api/suppressions/remove", body) == {"removed": 1}
    assert admin(served, "POST", "/api/suppressions/remove", body) == {"removed": 0}
    for _ in range(400):  # a collecting process may go on for a second with the list as it was
        # The same message id: a suppressed event is not remembered, so this is no duplicate.
        assert served.post("/v1/track", track(userId="back", messageId="between")).status == 200
        if served.committed() and served.sql("FROM events WHERE user_id = 'back'"):
            break
    assert len(served.sql("FROM events WHERE user_id = 'back'")) == 1


def test_the_list_is_pages_of_hashes(served: Served) -> None:
    values = [f"page-{number}" for number in range(25)]
    first = admin(
        served,
        "POST",
        "/api/suppressions",
        {"subjectType": "USER_ID", "subjectIds": values, "reason": "reg_7c1"},
    )
    assert first == {"suppressed": 25, "added": 25}
    again = admin(served, "POST", "/api/suppressions", {"subjectType": "USER_ID", "subjectIds": values})
    assert again == {"suppressed": 25, "added": 0}
    rows, query = [], "pagination[count]=10"
    while query:
        page = admin(served, "GET", f"/api/suppressions?{query}")
        rows += page["suppressed"]
        next_page = page["pagination"].get("next")
        query = f"pagination[count]=10&pagination[cursor]={next_page}" if next_page else ""
    assert len(rows) == page["pagination"]["totalEntries"] == len({row["subjectHash"] for row in rows})
    mine = [row for row in rows if row["reason"] == "reg_7c1"]
    assert len(mine) == 25
    assert {row["subjectType"] for row in mine} == {"USER_ID"}
    listed = run("privacy", "suppressions", "--dir", served.directory, "--json").json
    assert {row["hash"] for row in listed} == {row["subjectHash"] for row in rows}
    assert "page-1" not in json.dumps(rows)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"subjectType": "USER_ID", "subjectIds": []}, "give 1 to 5000"),
        ({"subjectType": "USER_ID", "subjectIds": ["x"] * 5001}, "give 1 to 5000"),
        ({"subjectType": "USER_ID", "subjectIds": ["x", ""]}, "not only spaces"),
        ({"subjectType": "", "subjectIds": ["x"]}, "its type has 0 characters"),
        ({"subjectType": "USER_ID", "subjectIds": [7]}, "expected `str`"),
        ({"subjectType": "USER_ID"}, "subjectIds"),
    ],
)
def test_what_cannot_be_suppressed_is_said(served: Served, body: object, message: str) -> None:
    answer = served.request(
        "POST",
        "/api/suppressions",
        body,
        authorization=f"Bearer {ADMIN_TOKEN}",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 400
    assert message in answer.json["detail"]


def test_the_command_line_takes_files_and_repeats_nobodys_name(served: Served, tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("user_id:from-file\r\n\nemail:From.File@example.org\nuser_id:with:colon\n")
    where = ("--dir", served.directory)
    assert run("privacy", "suppress", "--file", given, *where).out == b"3 suppressed, 3 of them new\n"
    found = run(
        "privacy", "suppressed", "email:from.file@EXAMPLE.org", "user_id:with:colon", *where, "--json"
    )
    assert (found.code, found.json) == (0, [True, True])
    missing = run("privacy", "suppressed", "user_id:nobody-knows", *where, "--json")
    assert (missing.code, missing.json) == (3, [False])
    assert run("privacy", "unsuppress", "--file", given, *where, "--json").json == {"removed": 3}
    for wrong in ("secret-person", ":secret-person", "user_id: ".strip() + ""):
        ran = run("privacy", "suppress", wrong, *where)
        assert ran.code == 2, ran
        assert "secret-person" not in ran.err
    piped = subprocess.run(
        [*COMMAND, "privacy", "suppress", "--file", "-", "--dir", str(served.directory)],
        input=b"user_id:from-pipe\n",
        capture_output=True,
        env=clean_environment(),
        timeout=60,
        check=True,
    )
    assert b"1 suppressed" in piped.stdout
