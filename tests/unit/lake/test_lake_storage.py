"""Storages: the disk holds what every one promises; errors of stores and of queries are told."""

import io
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from profilelake.errors import Invalid, Unavailable
from profilelake.lake import object_reading, sql
from profilelake.lake.files import local_path
from profilelake.lake.local_copies import LocalCopies
from profilelake.lake.object_faults import fault
from profilelake.lake.object_storage import ObjectStorage
from profilelake.lake.storage import LocalStorage, Storage, storage_of
from storage_laws import TestKeeping, TestWriting

__all__ = ["TestKeeping", "TestWriting"]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(f"file://{tmp_path}")


def test_copies_are_bounded_and_readable_after_they_went(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    copies = LocalCopies(storage, folder, bytes_max=2_500)
    names = [f"{storage.root}/{number}" for number in range(5)]
    for number, name in enumerate(names):
        storage.write(name, b"%d" % number * 1_000)
    opened = [open(copies.open(name), "rb") for name in names]  # noqa: SIM115, PTH123
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_500
    for number, file in enumerate(opened):
        with file:
            assert file.read() == b"%d" % number * 1_000
    with pytest.raises(FileNotFoundError):
        copies.fetch([*names, f"{storage.root}/gone"])
    with pytest.raises(Unavailable, match=r"1,000 bytes are more than the 999 of storage\.cache_bytes"):
        LocalCopies(storage, folder, bytes_max=999).open(names[0])
    assert not folder.exists() or not list(folder.iterdir())


class _Slow(LocalStorage):
    """A disk whose files take a while, so that several are on their way together."""

    def input(self, location: str) -> pa.NativeFile:
        return pa.PythonFile(_SlowFile(local_path(location)), mode="r")


class _SlowFile(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        time.sleep(0.02)
        return super().read(-1 if size is None else size)


def test_copies_that_come_together_are_bounded(tmp_path: Path) -> None:
    storage, folder = _Slow(f"file://{tmp_path}"), tmp_path / "copies"
    names = [f"{storage.root}/{number}" for number in range(12)]
    for name in names:
        storage.write(name, bytes(1_000))
    LocalCopies(storage, folder, bytes_max=2_500).fetch(names)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_500


def test_a_file_that_went_while_it_was_copied_is_told_as_such(tmp_path: Path) -> None:
    class Going(_SlowFile):
        def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002
            raise FileNotFoundError("gone")

    class Store(LocalStorage):
        def input(self, location: str) -> pa.NativeFile:
            return pa.PythonFile(Going(local_path(location)), mode="r")

    storage = Store(f"file://{tmp_path}")
    storage.write(f"{storage.root}/a", b"1")
    # Whoever planned a query plans again; there is no want of room.
    with pytest.raises(FileNotFoundError):
        LocalCopies(storage, tmp_path / "copies", bytes_max=100).open(f"{storage.root}/a")


def test_old_copies_go(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = LocalCopies(storage, tmp_path / "copies", bytes_max=100)
    storage.write(f"{storage.root}/a", b"1")
    with open(copies.open(f"{storage.root}/a"), "rb"):  # noqa: PTH123
        copies.forget_old()
        assert len(list((tmp_path / "copies").iterdir())) == 1
        monkeypatch.setattr("profilelake.lake.local_copies.KEEP_SECONDS", -1)
        copies.forget_old()
        assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("status code: 503 Service Unavailable: <Error><Code>SlowDown</Code>", "503 SlowDown; it is busy"),
        ("status code: 400 Bad Request: <Code>ExpiredToken</Code>", "the credentials have expired"),
        ("status code: 403 Forbidden: <Code>SignatureDoesNotMatch</Code>", "are not good"),
        ("status code: 403 Forbidden: <Code>RequestTimeTooSkewed</Code>", "chronyc makestep"),
        ("status code: 403 Forbidden: <Code>AccessDenied</Code>", "grant s3:GetObject"),
        ("status code: 404 Not Found: <Code>NoSuchBucket</Code>", "there is no such bucket"),
        ("status code: 400 Bad Request: <Code>AuthorizationHeaderMalformed</Code>", "in another region"),
        ("Received redirect without LOCATION, this normally", "set storage.region and storage.endpoint"),
        ("status code: 507 Insufficient Storage: <Code>XMinioStorageFull</Code>", "no room for it (XMinio"),
        ("status code: 507 Insufficient Storage", "no room for it (507)"),
        ("status code: 403 Forbidden: <Code>QuotaExceeded</Code>", "no room for it (QuotaExceeded)"),
        ("error sending request: HttpError { kind: Timeout,", "did not answer in time"),
        ("error sending request: HttpError { kind: Connect,", "cannot be reached"),
        ("error sending request: HttpError { kind: Request,", "broke the connection off"),
        ("PUT http://169.254.169.254/latest/api/token", "there are no credentials"),
    ],
)
def test_what_a_store_answers_is_told_in_words(said: str, told: str) -> None:
    """The text of the store itself, which may hold names of keys, is not."""
    for kind in (GenericError, PermissionDeniedError):
        error = fault(kind(f"{said} <AWSAccessKeyId>AKIAHIDDEN</AWSAccessKeyId>"), "reading", "s3://b/k")
        assert isinstance(error, Unavailable)
        assert told in str(error)
        assert str(error).startswith("reading s3://b/k: ")
        assert "AKIAHIDDEN" not in str(error)


def test_a_storage_raises_through_a_query() -> None:
    text = "Traceback (most recent call last):\n  File x\nprofilelake.errors.Unavailable: it is busy"
    found = sql.storage_fault(duckdb.Error(text))
    assert isinstance(found, Unavailable)
    assert str(found) == "it is busy"
    assert isinstance(sql.storage_fault(duckdb.Error("FileNotFoundError: gone")), FileNotFoundError)
    assert sql.storage_fault(duckdb.Error("something else")) is None
    # What a query makes of such a text in its data is its own error.
    assert sql.storage_fault(duckdb.ConversionException("OSError: from the data")) is None


def test_a_url_says_which_storage(tmp_path: Path) -> None:
    assert storage_of(str(tmp_path)) == LocalStorage(str(tmp_path))
    assert storage_of(f"file://{tmp_path}/") == LocalStorage(f"file://{tmp_path}")
    assert storage_of("s3://bucket/prefix/") == ObjectStorage("s3://bucket/prefix")


@pytest.mark.parametrize("url", ["ftp://host/place", "s3://", "s3:///"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(Invalid, match="opening the storage"):
        storage_of(url)


def test_equal_storages_share_what_was_read() -> None:
    object_reading.forget()
    first, second = ObjectStorage("s3://b/p"), ObjectStorage("s3://b/p")
    assert object_reading.tails_of(first, 4) is object_reading.tails_of(second, 4)
    assert object_reading.tails_of(first, 4) is not object_reading.tails_of(ObjectStorage("s3://b/q"), 4)
