"""What a backup of tables on an object store costs against reading the same objects and keeping nothing.

    weed mini -dir=/tmp/s3 -ip=127.0.0.1 -ip.bind=127.0.0.1      # or any other S3 server
    AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… \\
        python benchmarks/backup_objects.py --endpoint http://127.0.0.1:8333 --bucket lake [--files 64]

The first backup, a second one with nothing new, and a restore to another prefix, by the parts of backup and restore
that move files. Memory is the peak of this process beyond what it had before.
"""

import argparse
import random
import resource
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import obstore

from _machine import machine
from profilelake.backup.capture import Distant
from profilelake.backup.fetching import AT_ONCE, Fetcher, each_at_once
from profilelake.backup.pool import Pool
from profilelake.lake.object_storage import ObjectStorage
from profilelake.settings import StorageOptions

SEED: Final = 7
FILE_BYTES: Final = 16 << 20


def measured(name: str, work: Callable[[], object]) -> float:
    """Print wall and CPU seconds of work and how much memory the process took beyond; return the wall seconds."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    work()
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    more = (after.ru_maxrss - before.ru_maxrss) >> 10
    print(f"{name:34} {wall:7.2f} s wall {cpu:7.2f} s CPU {more:5} MiB more at its peak")
    return wall


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--bucket", required=True)
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

        plain = measured("read, and keep nothing", lambda: each_at_once(names, read, AT_ONCE))
        pool, notes = Pool(folder), folder / "fetched.jsonl"
        first = measured("first backup", lambda: Fetcher(pool, notes, None).fetch(storage, files))
        again = measured("second backup", lambda: Fetcher(pool, notes, None).fetch(storage, files))
        fetched = Fetcher(pool, notes, None).stored(files)

        def send(location: str) -> None:
            file = fetched[names.index(location)]
            with storage.output(f"{storage.root}/back/{Path(location).name}") as sink:
                pool.send(file.sha256, file.bytes, sink)

        back = measured("restore to another prefix", lambda: each_at_once(names, send, AT_ONCE))
        print(f"of the plain reading's time: {first / plain:.2f}, {again / plain:.3f}, {back / plain:.2f}")
        storage.remove([found.location for found in storage.list(storage.root)])


if __name__ == "__main__":
    main()
