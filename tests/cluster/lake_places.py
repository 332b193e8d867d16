"""Lakes at every kind of place: catalogs on real servers, files on a disk and on an object store."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from cluster_servers import S3Server
from profilelake.errors import Invalid, Unavailable
from profilelake.lake.catalog import Lake
from profilelake.lake.place import SECRET_VARIABLE, LakePlace
from profilelake.settings import StorageOptions

READY_SECONDS = 30
KINDS = ("sqlite-files", "sqlite-s3", "postgresql-files", "postgresql-s3", "rest-s3")


@dataclass(frozen=True)
class Placed:
    """A lake's place, and a workspace in it that no other test uses."""

    place: LakePlace
    workspace: str

    def open(self) -> Lake:
        """Open the lake, as a process of its own would.

        By the clock of this machine: Spark and REST servers refuse snapshots that are later than their own.
        """
        return Lake.at(self.place)


@contextmanager
def placed(
    kind: str, folder: Path, request: pytest.FixtureRequest, patched: pytest.MonkeyPatch
) -> Iterator[Placed]:
    """Make an empty place of a kind."""
    catalog, _, files = kind.partition("-")
    name = f"t{secrets.token_hex(6)}"
    warehouse, options = f"file://{folder}/lake", StorageOptions()
    if files == "s3":
        server: S3Server = request.getfixturevalue("s3")
        patched.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        patched.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        warehouse = f"s3://{server.bucket}/{name}"
        options = StorageOptions(endpoint=server.endpoint, plain_http="allowed")
    if catalog == "rest":
        patched.setenv(SECRET_VARIABLE, f"{server.access_key}:{server.secret_key}")
        found = replace(
            LakePlace.at(server.catalog, warehouse),
            options=f"warehouse={server.warehouse.rstrip('/')}",
            table_locations="catalog",
        )
        wait_for_catalog(found)
    elif catalog == "postgresql":
        found = LakePlace.at(database(request.getfixturevalue("postgres"), name), warehouse)
    else:
        found = LakePlace.at(f"sqlite:///{folder}/catalog.db", warehouse)
    yield Placed(replace(found, storage=options), name)


def wait_for_catalog(place: LakePlace) -> None:
    """Wait until a REST catalog knows its warehouse: the server answers before."""
    give_up_at = time.monotonic() + READY_SECONDS
    while True:
        try:
            return Lake.at(place).close()
        except (Invalid, Unavailable):
            if time.monotonic() > give_up_at:
                raise
        time.sleep(0.2)


def database(server: str, name: str) -> str:
    """Make a database on a PostgreSQL server and return its URL."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return urlsplit(server)._replace(path=f"/{name}").geturl()
