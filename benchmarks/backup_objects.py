"""What backups of, and to, an object store cost against reading or putting the same bytes and nothing else.

    weed mini -dir=/tmp/s3 -ip=127.0.0.1 -ip.bind=127.0.0.1      # or any other S3 server
    AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… \\
        python benchmarks/backup_objects.py --endpoint http://127.0.0.1:8333 --bucket lake [--other more] [--files 64]

The first backup of tables on the store into a folder, a second one with nothing new, and a restore to another prefix; then
backups into a bucket, of files of this machine, of another bucket, and of the same one: by the parts of backup and restore
that move files. Memory is the peak of this process during the work, beyond what it had before.
"""

import argparse
import random
import resource
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import obstore

from _machine import machine
from profilelake.backup.bucket_pool import BucketPool
from profilelake.backup.capture import Distant
from profilelake.backup.fetching import AT_ONCE, Fetcher, each_at_once
from profilelake.backup.pool import Pool, hash_file
from profilelake.lake.object_storage import ObjectStorage
from profilelake.settings import StorageOptions

SEED: Final = 7
FILE_BYTES: Final = 16 << 20


def measured(name: str, size: int, work: Callable[[], object]) -> float:
    """Print wall and CPU seconds of work, and how much memory the process took beyond; return the wall seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held, before = memory("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    work()
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    more = max(0, memory("VmHWM") - held) >> 10
    print(
        f"{name:34} {wall:7.2f} s wall {size / wall / 1e6:7.0f} MB/s {cpu / (size / 1e9):6.2f} CPU s a GB "
        f"{more:5} MiB more at its peak"
    )
    return wall


def memory(name: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--other", default="", help="another bucket that is there")
    parser.add_argument("--files", type=int, default=64)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder, options = Path(made), StorageOptions(endpoint=chosen.endpoint, plain_http="allowed")
        storage = ObjectStorage(f"s3://{chosen.bucket}/{uuid.uuid4().hex}", options)
        print(f"{machine()}; {chosen.files} files of {FILE_BYTES >> 20} MiB, seed {SEED}")
        content = random.Random(SEED).randbytes(FILE_BYTES)
        for number in range(chosen.files):
            storage.write(f"{storage.root}/{number}.parquet", content[number:] + content[:number])
        files = [
            Distant(
                f"lake/n/t/{Path(found.location).name}", found.location, found.bytes, (found.modified_at, 1)
            )
            for found in storage.list(storage.root)
        ]
        names = [found.location for found in files]

        def read(location: str) -> None:
            for _ in obstore.get(*storage.located(location)).stream():
                pass

        size = chosen.files * FILE_BYTES
        plain = measured("read, and keep nothing", size, lambda: each_at_once(names, read, AT_ONCE))
        pool, notes = Pool(folder), folder / "fetched.jsonl"
        first = measured("first backup", size, lambda: Fetcher(pool, notes, None).fetch(storage, files))
        again = measured("second backup", size, lambda: Fetcher(pool, notes, None).fetch(storage, files))
        fetched = Fetcher(pool, notes, None).stored(files)

        def send(location: str) -> None:
            file = fetched[names.index(location)]
            pool.deliver(file.sha256, file.bytes, storage, f"{storage.root}/back/{Path(location).name}")

        back = measured("restore to another prefix", size, lambda: each_at_once(names, send, AT_ONCE))
        print(f"of the plain reading's time: {first / plain:.2f}, {again / plain:.3f}, {back / plain:.2f}")
        shutil.rmtree(folder / "files")
        notes.unlink()
        to_bucket(folder, storage, files, content, chosen.other)
        storage.remove([found.location for found in storage.list(storage.root)])


def to_bucket(folder: Path, storage: ObjectStorage, files: list[Distant], content: bytes, other: str) -> None:
    """Measure what goes into a bucket against putting the same bytes."""
    size = len(files) * FILE_BYTES
    paths = [folder / Path(file.location).name for file in files]
    for number, path in enumerate(paths):
        path.write_bytes(content[number:] + content[:number])

    def put(path: Path) -> None:
        obstore.put(*storage.located(f"{storage.root}/plain/{path.name}"), path)

    plain = measured("put, and nothing else", size, lambda: each_at_once(paths, put, BucketPool.at_once))

    def pool_in(root: str) -> BucketPool:
        made = BucketPool(ObjectStorage(root, storage.options))
        made.begin(1, 0, {})
        return made

    ratios, used = [], []
    pool = pool_in(f"{storage.root}/of-files")

    def add(path: Path) -> None:
        pool.add(path, FILE_BYTES)

    ratios.append(
        measured(
            "backup of files of this machine",
            size,
            lambda: each_at_once(paths, add, pool.at_once),
        )
    )
    roots = {"of the same bucket": f"{storage.root}/of-objects"}
    if other:
        roots["of another bucket"] = f"s3://{other}/{uuid.uuid4().hex}"
    for name, root in roots.items():
        fetcher = Fetcher(pool_in(root), folder / f"{len(ratios)}.jsonl", None)
        ratios.append(measured(f"backup {name}", size, lambda: fetcher.fetch(storage, files)))  # noqa: B023
        used.append(ObjectStorage(root, storage.options))

    def give(path: Path) -> None:
        digest = hash_file(path, FILE_BYTES)
        pool.give(digest, FILE_BYTES, folder / "given" / path.name)

    ratios.append(measured("restore to this machine", size, lambda: each_at_once(paths, give, pool.at_once)))
    print(f"of the plain putting's time: {', '.join(f'{ratio / plain:.2f}' for ratio in ratios)}")
    for each in used:
        each.remove([found.location for found in each.list(each.root)])


if __name__ == "__main__":
    main()
