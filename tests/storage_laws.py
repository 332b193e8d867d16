"""What every storage promises; a module of tests takes these classes and gives them its `storage`."""

import io
import threading

import numpy as np
import pytest

from profilelake.lake.storage import Storage

PART_BYTES = 8 << 20
"""From this size on an object store takes files in parts."""


def listed(storage: Storage) -> list[str]:
    return sorted(storage.place(file.location) for file in storage.list(storage.root))


class TestWriting:
    def test_what_was_written_is_read(self, storage: Storage) -> None:
        location = f"{storage.root}/a/b.txt"
        for content in (b"one", b"", b"another one"):
            storage.write(location, content)
            assert (storage.read(location), storage.size(location)) == (content, len(content))
            with storage.input(location) as source:
                assert (source.size(), source.read()) == (len(content), content)
        assert listed(storage) == [storage.place(location)]

    def test_of_many_who_create_a_file_one_wins(self, storage: Storage) -> None:
        location, won = f"{storage.root}/lock", []
        threads = [
            threading.Thread(
                target=lambda n=n: won.append(n) if storage.create(location, b"%d" % n) else None
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(won) == 1
        assert storage.read(location) == b"%d" % won[0]

    def test_equal_content_of_somebody_else_is_not_ours(self, storage: Storage) -> None:
        assert storage.create(f"{storage.root}/lock", b"same")
        assert not storage.create(f"{storage.root}/lock", b"same")

    @pytest.mark.parametrize("size", [10, PART_BYTES, 2 * PART_BYTES + 5])
    def test_a_file_is_there_once_it_is_closed(self, storage: Storage, size: int) -> None:
        location, content = f"{storage.root}/large", np.random.default_rng(size).bytes(size)
        with storage.output(location) as sink:
            for start in range(0, size, 1 << 20):
                sink.write(content[start : start + (1 << 20)])
            assert sink.tell() == size
            assert storage.size(location) is None
        assert storage.read(location) == content
        with storage.input(location) as source:
            source.seek(size // 2)
            assert source.read() == content[size // 2 :]

    @pytest.mark.parametrize("size", [0, 10, PART_BYTES, 2 * PART_BYTES + 5])
    def test_what_is_read_elsewhere_is_sent(self, storage: Storage, size: int) -> None:
        location, content = f"{storage.root}/sent", np.random.default_rng(size).bytes(size)
        storage.send(location, io.BytesIO(content), size)
        assert storage.read(location) == content

    @pytest.mark.parametrize("size", [10, 2 * PART_BYTES + 5])
    def test_what_breaks_while_it_is_read_is_not_sent(self, storage: Storage, size: int) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() + (size or 0) >= len(self.getvalue()):
                    raise OSError("why")
                return super().read(size)

        with pytest.raises(OSError, match="why"):
            storage.send(f"{storage.root}/half", Broken(bytes(size)), size)
        assert listed(storage) == []

    @pytest.mark.parametrize("size", [0, 10, 2 * PART_BYTES + 5])
    def test_a_copy_by_the_store_is_whole_or_was_not_made(self, storage: Storage, size: int) -> None:
        source, target = f"{storage.root}/one", f"{storage.root}/other"
        content = np.random.default_rng(size).bytes(size)
        storage.write(source, content)
        assert storage.copy_from(storage, source, target, size) == storage.copies(
            storage, source, target, size
        )
        assert storage.size(target) == (size if storage.copies(storage, source, target, size) else None)
        assert storage.copies(storage, source, target, 1 << 60) is False
        if storage.size(target) is not None:
            assert storage.read(target) == content
        assert storage.read(source) == content

    @pytest.mark.parametrize("size", [10, PART_BYTES + 5])
    def test_after_an_error_nothing_is_there(self, storage: Storage, size: int) -> None:
        def broken() -> None:
            with storage.output(f"{storage.root}/half") as sink:
                sink.write(b"x" * size)
                raise KeyError("why")

        with pytest.raises(KeyError):
            broken()
        assert listed(storage) == []

    @pytest.mark.parametrize("size", [10, PART_BYTES + 5])
    def test_a_new_file_never_replaces_another(self, storage: Storage, size: int) -> None:
        location = f"{storage.root}/once"
        storage.write(location, b"first")

        def again() -> None:
            with storage.output(location, new=True) as sink:
                sink.write(b"x" * size)

        with pytest.raises(FileExistsError):
            again()
        assert storage.read(location) == b"first"
        assert listed(storage) == [storage.place(location)]


class TestKeeping:
    def test_what_is_not_there_is_said_so(self, storage: Storage) -> None:
        location = f"{storage.root}/none"
        assert storage.size(location) is None
        assert listed(storage) == []
        storage.remove([location])
        with pytest.raises(FileNotFoundError):
            storage.read(location)
        with pytest.raises(FileNotFoundError):
            storage.input(location)

    def test_files_are_listed_below_a_folder_not_beside_it(self, storage: Storage) -> None:
        names = [f"{storage.root}/{name}" for name in ("t/1", "t/deep/er/2", "t2/3", "t.txt")]
        for name in names:
            storage.write(name, b"12345")
        found = list(storage.list(f"{storage.root}/t"))
        assert sorted(storage.place(file.location) for file in found) == [storage.place(n) for n in names[:2]]
        assert {file.bytes for file in found} == {5}

    def test_removed_files_are_gone_and_the_others_are_not(self, storage: Storage) -> None:
        names = [f"{storage.root}/{number}" for number in range(20)]
        for name in names:
            storage.write(name, b"")
        storage.remove(name for name in [*names[:19], f"{storage.root}/never"])
        assert listed(storage) == [storage.place(names[19])]

    def test_touched_files_are_the_same_files(self, storage: Storage) -> None:
        location = f"{storage.root}/kept"
        storage.write(location, b"content")
        storage.touch([location])
        assert storage.read(location) == b"content"
        assert listed(storage) == [storage.place(location)]
        with pytest.raises(FileNotFoundError):
            storage.touch([f"{storage.root}/gone"])
