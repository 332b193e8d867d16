"""Files to lines: every format, packed and not, and what is wrong with files."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profilelake.errors import Invalid, NotFound
from profilelake.imports.files import ImportFile, find_files, opened
from profilelake.imports.mapping import ColumnMapping
from profilelake.imports.tables import Reading, read_lines
from profilelake.semantics.events import event_lines


def gzipped(data: bytes) -> bytes:
    """Pack without the time of day: it would be part of the names of tests."""
    return gzip.compress(data, mtime=0)


def reading(*, map: tuple[str, ...] = (), set: tuple[str, ...] = (), **rest: Any) -> Reading:
    return Reading(ColumnMapping.load(None, map, set), **rest)


def lines(path: Path, given: Reading | None = None) -> list[bytes]:
    (file,) = find_files([str(path)])
    with opened(file) as source:
        opened_lines = read_lines(source, given or reading())
        found = event_lines(b"".join(opened_lines.blocks))
        assert opened_lines.consumed() == file.bytes
        return found


def messages(path: Path, given: Reading | None = None) -> list[Any]:
    return [json.loads(line) for line in lines(path, given)]


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", ["a.ndjson", "a.json", "a.jsonl.gz", "a.gz", "a"])
def test_lines_come_as_they_are(tmp_path: Path, name: str) -> None:
    data = b'{"a":1}\n{"b":"\xff"}\nx'
    for place, packed in enumerate(
        (
            data,
            gzipped(data),
            gzipped(data[:9]) + gzipped(data[9:]),
            zstd(data),
            zstd(data[:5]) + zstd(data[5:]),
        )
    ):
        assert lines(write(tmp_path / f"{place}{name}", packed)) == event_lines(data)


def test_nothing_is_in_an_empty_file(tmp_path: Path) -> None:
    for name, data in (
        ("a.ndjson", b""),
        ("a.csv", b""),
        ("b.csv", b"type,userId\n"),
        ("a.gz", gzipped(b"")),
    ):
        assert lines(write(tmp_path / name, data)) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.gz", gzipped(b"{}\n" * 1000)[:-9], "damaged or cut off"),
        ("a.gz", gzipped(b"{}\n" * 1000)[:9], "damaged or cut off"),
        ("b.gz", gzipped(b"x")[:-8] + b"\0" * 8, "damaged or cut off"),
        ("a.zst", pa.compress(b"{}\n" * 1000, "zstd", asbytes=True)[:-3], "damaged or cut off"),
        ("a.json", b' [\n{"type":"page"}]', "JSON array"),
        ("a.json", b'{\n"type":"page"}', "over several lines"),
        ("a.json", "{}".encode("utf-16"), "UTF-16"),
        ("a.json", b"PK\x03\x04zip", "zip archive"),
        ("a.parquet", b"{}", "no whole Parquet file"),
        ("p.gz", gzipped(b"PAR1...."), "plain file"),
        ("t.csv", b"userId\nu\n", "no column says what type"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        lines(write(tmp_path / name, data))


def test_csv_by_its_header(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        'type,userId,traits.email,plan,properties,"a ""b""",timestamp\r\n'
        "identify,007,a@b,007,,1.50,2020-01-01 10:00:00\r\n"
        'track,42,,pro,"{""x"": 1.0,\n""y"": [1]}",true,\r\n',
    )
    assert lines(path)[0] == (
        b'{"type":"identify","userId":"007","traits":{"email":"a@b","plan":"007","a \\"b\\"":1.50},'
        b'"timestamp":"2020-01-01 10:00:00"}'
    )
    assert messages(path)[1] == {
        "type": "track",
        "userId": "42",
        "properties": {"plan": "pro", "x": 1.0, "y": [1], 'a "b"': True},
    }


def test_csv_by_a_mapping(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "\ufeffuser;when;amount;zip;vip;skip\nu;1577836800;12.5;12345;yes;x\nv;soon;a;;no;\n",
    )
    given = reading(
        map=(
            "user=userId",
            "when=timestamp:epoch_s",
            "amount=properties.total:number",
            "zip=properties.zip:text",
            "vip=properties.vip:boolean",
        ),
        set=("event=Order Completed", "context.origin=shop"),
        default_type="track",
    )
    same = {"event": "Order Completed", "context": {"origin": "shop"}}
    assert messages(path, given) == [
        same | {
            "userId": "u",
            "timestamp": "2020-01-01T00:00:00Z",
            "properties": {"total": 12.5, "zip": "12345", "vip": True},
        },
        same | {"userId": "v", "timestamp": "soon", "properties": {"total": "a", "vip": False}},
    ]  # fmt: skip


def test_a_bad_row_of_csv_is_a_bad_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"type,userId\npage,u\npage\npage,v,w\npage,\xff\npage,z\n")
    found = lines(path)
    assert found.count(b'{"type":"page","userId":"u"}') == found.count(b'{"type":"page","userId":"z"}') == 1
    bad = [line for line in found if not line.startswith(b"{")]
    assert len(bad) == 3
    assert b"row: page" in bad
    assert b"row: page,v,w" in bad


def test_tabs_and_other_delimiters(tmp_path: Path) -> None:
    assert messages(write(tmp_path / "a.tsv", "type\tuserId\npage\ta,b\n")) == [
        {"type": "page", "userId": "a,b"}
    ]
    path = write(tmp_path / "a.txt", "type^userId\npage^u\n")
    assert messages(path, reading(format="csv", delimiter="^")) == [{"type": "page", "userId": "u"}]


def test_parquet_in_the_shape_of_messages(tmp_path: Path) -> None:
    at = datetime(2020, 1, 1, 12, tzinfo=UTC)
    table = pa.table(
        {
            "type": pa.array(["track", None]).dictionary_encode(),
            "messageId": ["m", None],
            "userId": pa.array([7, 8]),
            "timestamp": pa.array([at, None], pa.timestamp("ns", "UTC")),
            "properties": [{"total": 1.5, "none": None, "at": at, "bad": float("nan")}, None],
            "context": ['{"ip": "1.2.3.4", "n": 1.10}', "oops"],
            "integrations": pa.array([[("All", True)], []], pa.map_(pa.string(), pa.bool_())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = lines(tmp_path / "a.parquet", reading(default_type="page"))
    assert b'"n": 1.10' in found[0]
    assert json.loads(found[0]) == {
        "type": "track",
        "messageId": "m",
        "userId": 7,
        "timestamp": "2020-01-01T12:00:00Z",
        "properties": {"total": 1.5, "at": "2020-01-01T12:00:00Z", "bad": None},
        "context": {"ip": "1.2.3.4", "n": 1.1},
        "integrations": {"All": True},
    }
    assert json.loads(found[1]) == {"userId": 8, "context": "oops", "integrations": {}}


def test_lines_with_other_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.ndjson", '{"who":{"id":"u"},"name":"Bought","at":1577836800000}\nnot json\n7\n{}\n'
    )
    given = reading(map=("who.id=userId", "name=event", "at=timestamp:epoch_ms"), default_type="track")
    assert lines(path, given) == [
        b'{"userId":"u","event":"Bought","timestamp":"2020-01-01T00:00:00Z"}',
        b"not json",
        b"7",
        b"{}",
    ]


def test_finding_files(tmp_path: Path) -> None:
    for name in (
        "b.ndjson",
        "a.csv.gz",
        "sub/c.parquet",
        "sub/d.txt",
        ".hidden.json",
        "_SUCCESS",
        "_x/e.json",
        "[1].json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"")

    def names(*given: str) -> list[str]:
        return [
            str(Path(file.name).relative_to(tmp_path))
            for file in find_files([f"{tmp_path}/{name}" for name in given])
        ]

    assert names("") == ["[1].json", "a.csv.gz", "b.ndjson", "sub/c.parquet"]
    assert names("*.ndjson", "b.ndjson") == ["b.ndjson"]
    assert names("sub/d.txt") == ["sub/d.txt"]
    assert names("[1].json") == ["[1].json"]
    assert names("**/*.parquet") == ["sub/c.parquet"]
    assert find_files(["-", "-"]) == [ImportFile("standard input", None, None)]
    with pytest.raises(NotFound, match="no such file"):
        names("nothing*")


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, "zstd", asbytes=True)
    return packed
