import pytest

from eventlog_puppet import entry
from profilelake.errors import Corrupt, Invalid
from profilelake.eventlog import Entry, Flags, Kind, LogEnd
from profilelake.eventlog._format import (
    FORMAT_VERSION,
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    Footer,
    Header,
    Identity,
    crc32,
    decode_footer,
    decode_header,
    encode_entry,
    encode_record,
    parse_records,
    record_bytes,
)

IDENTITY = Identity("0123456789abcdef", b"\x91marker\x92", "eu-central")
HEADER = Header(IDENTITY, 1 << 40, 77, 1_700_000_000_000_000)
FOOTER = Footer(1 << 40, LogEnd((1 << 40) + 900, 80), 5, 6, closed=True)


def record(item: Entry, received_at: int = 5, before: int = 9) -> bytes:
    return encode_record(encode_entry(item), item.body, IDENTITY.marker, received_at, before) + item.body


@pytest.mark.parametrize(
    "item",
    [
        Entry(
            "w", "s", Kind.BATCH, Flags.GZIP | Flags.TOLERANT, 20, 3, "2001:db8::1", "2026-01-01", b"\x00" * 9
        ),
        Entry("", "", Kind.ALIAS, Flags.NONE, 0, 0, "", "", b""),
        Entry("größe", "源", Kind.PAGE, Flags.BROWSER, 1, 65535, "", "lone \ud800 half", b"{}"),
    ],
)
def test_a_record_comes_back_as_it_went_in(item: Entry) -> None:
    data = record(item)
    assert len(data) == record_bytes(encode_entry(item), item.body)
    parsed = parse_records(data * 2, 1000, IDENTITY)
    assert parsed.used == 2 * len(data)
    first, second = parsed.records
    assert (first.offset, first.next_offset, second.offset) == (1000, 1000 + len(data), 1000 + len(data))
    assert (first.received_at, first.events_before, first.region) == (5, 9, "eu-central")
    back = Entry(**{name: getattr(first, name) for name in Entry._fields})
    assert back == item


def test_names_that_join_to_the_same_bytes_stay_apart() -> None:
    data = record(entry(b"1")._replace(workspace="ab", source_id="c")) + record(
        entry(b"2")._replace(workspace="a", source_id="bc")
    )
    assert [(r.workspace, r.source_id) for r in parse_records(data, 0, IDENTITY).records] == [
        ("ab", "c"),
        ("a", "bc"),
    ]


@pytest.mark.parametrize(
    "change", [{"events": -1}, {"events": 1 << 32}, {"extraction_version": 65536}, {"sent_at": "x" * 65536}]
)
def test_what_does_not_fit_a_field_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Invalid, match="does not fit the log"):
        encode_entry(entry(b"{}")._replace(**change))  # type: ignore[arg-type]


def test_a_body_beyond_the_limit_is_refused() -> None:
    with pytest.raises(Invalid, match="split it"):
        encode_entry(entry(bytes(RECORD_BYTES_MAX)))


def test_every_cut_and_every_flipped_byte_of_a_record_is_noticed() -> None:
    data = record(entry(b"hello world"))
    for size in range(len(data)):
        parsed = parse_records(data[:size], 0, IDENTITY)
        assert not parsed.records
        assert not parsed.damaged
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x40
        assert not parse_records(bytes(flipped), 0, IDENTITY).records


def test_a_record_of_another_log_is_damage() -> None:
    other = Identity("ffff456789abcdef", b"another!", "eu-central")
    assert parse_records(record(entry(b"x")), 0, other).damaged


def test_header_and_footer_come_back_and_notice_every_flipped_byte() -> None:
    header, footer = HEADER.encode(), FOOTER.encode(IDENTITY)
    assert decode_header(header, "x") == HEADER
    assert decode_footer(footer, IDENTITY) == FOOTER
    for place in range(len(header)):
        flipped = bytearray(header)
        flipped[place] ^= 1
        assert decode_header(bytes(flipped), "x") is None
    for place in range(len(footer)):
        flipped = bytearray(footer)
        flipped[place] ^= 1
        assert decode_footer(bytes(flipped), IDENTITY) is None


def test_a_newer_format_version_is_refused_by_name() -> None:
    data = bytearray(HEADER.encode())
    data[8:10] = (FORMAT_VERSION + 1).to_bytes(2, "little")
    data[-4:] = crc32(bytes(data[:-4])).to_bytes(4, "little")
    with pytest.raises(Corrupt, match=r"log/1\.seg has format version 2.*newer"):
        decode_header(bytes(data), "log/1.seg")


def test_a_region_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(Invalid, match="longer than 64 bytes"):
        Header(Identity("0" * 16, b"12345678", "r" * 65), 0, 0, 0).encode()
    assert len(HEADER.encode()) == HEADER_BYTES
