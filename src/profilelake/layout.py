"""Where everything lies below a data directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from profilelake.directory_format import DETAILS, GUARD, check_format, new_format, write_format
from profilelake.errors import Conflict, Invalid


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies below a data directory."""

    directory: Path

    @property
    def log(self) -> Path:
        """Event log, one folder per writer incarnation."""
        return self.directory / "log"

    @property
    def state(self) -> Path:
        """Online state."""
        return self.directory / "state"

    @property
    def warehouse(self) -> Path:
        """Iceberg tables, where no setting says otherwise."""
        return self.directory / "lake"

    @property
    def catalog(self) -> Path:
        """File of the Iceberg catalog, where no setting says otherwise."""
        return self.directory / "catalog.sqlite"

    @property
    def catalog_uri(self) -> str:
        """Iceberg catalog, where no setting says otherwise."""
        return f"sqlite:///{self.catalog.absolute()}"

    @property
    def lake_record(self) -> Path:
        """Where the lake lies, once that is not in this directory."""
        return self.directory / "lake.json"

    @property
    def has_lake(self) -> bool:
        """Whether tables were ever made, here or elsewhere."""
        return self.catalog.exists() or self.lake_record.exists()

    @property
    def control(self) -> Path:
        """Workspaces, sources, keys, tokens."""
        return self.directory / "control.sqlite"

    @property
    def secrets(self) -> Path:
        """Identifier keys; back this folder up apart from the rest."""
        return self.directory / "secrets"

    @property
    def credentials(self) -> Path:
        """Keys and tokens made at the first start."""
        return self.directory / "credentials.json"

    @property
    def run(self) -> Path:
        """Lock, address of the running server, requests to the pipeline."""
        return self.directory / "run"

    @property
    def definitions(self) -> Path:
        """What this installation is to do, in files a person writes."""
        return self.directory / "definitions"

    @property
    def identity_rules(self) -> Path:
        """Which identifiers are read, and what may link."""
        return self.definitions / "identity.yaml"

    @property
    def server(self) -> Path:
        """Address and process of the running server."""
        return self.run / "server.json"

    @property
    def query_socket(self) -> Path:
        """Where the process that reads the lake listens."""
        return self.run / "query.sock"

    @property
    def sql_values(self) -> Path:
        """Results of SQL definitions while they are compared with what was known."""
        return self.run / "sql-values"

    @property
    def sql_requests(self) -> Path:
        """A file for each SQL definition that somebody wants to run now."""
        return self.run / "sql-requests"

    @property
    def sql_results(self) -> Path:
        """Results of SQL jobs, and copies of tables for queries under way; emptied at every start."""
        return self.run / "sql"

    @property
    def lake_copies(self) -> Path:
        """Files of a lake on an object store that SQL over HTTP has read; emptied at every start."""
        return self.run / "lake-copies"

    @property
    def flush_request(self) -> Path:
        """Touched by whoever waits for a commit."""
        return self.run / "flush"

    @property
    def lake_requests(self) -> Path:
        """What commands ask of the lake process."""
        return self.run / "lake"

    @property
    def maintenance_record(self) -> Path:
        """What was done to the tables besides publishing."""
        return self.directory / "maintenance.jsonl"

    @property
    def rebuild_request(self) -> Path:
        """What is asked of the running server about a rebuild, and how far that is."""
        return self.run / "rebuild.json"

    @property
    def replays(self) -> Path:
        """Which failed events were sent again."""
        return self.directory / "replays.sqlite"

    @property
    def activations(self) -> Path:
        """How far destinations are told, and what waits for them."""
        return self.directory / "activations.sqlite"

    @property
    def destination_secrets(self) -> Path:
        """Secrets of destinations, one file each."""
        return self.secrets / "destinations"

    @property
    def destinations(self) -> Path:
        """Who is told of changes."""
        return self.definitions / "destinations.yaml"

    def tail(self, workspace: str) -> Path:
        """Who watches the events of a workspace, and what becomes of these."""
        return self.run / "tail" / workspace

    @property
    def backups(self) -> Path:
        """When backups of this directory were made, and where the identifier key went."""
        return self.directory / "backups.json"

    @property
    def imports(self) -> Path:
        """What was imported."""
        return self.directory / "imports.sqlite"

    def recent(self, workspace: str) -> Path:
        """Runs of recent events of a workspace."""
        return self.directory / "recent" / workspace

    def dedup(self, workspace: str) -> Path:
        """Run files of a workspace's message ids."""
        return self.directory / "dedup" / workspace

    def create(self) -> None:
        """Make the data directory, or check that this program can read it.

        Raises:
            Conflict: it is of another format, or not a data directory at all.
        """
        if check_format(self.directory):
            return
        if self.directory.exists() and not self.directory.is_dir():
            raise Conflict(f"creating a data directory in {self.directory}: there is a file of that name")
        if self.directory.exists():
            strangers = [entry.name for entry in self.directory.iterdir() if entry.name not in _EXPECTED]
            if strangers:
                raise Conflict(
                    f"creating a data directory in {self.directory}: it holds other things "
                    f"({', '.join(sorted(strangers)[:3])}); name an empty one with --dir"
                )
        # What lies in it are people's data: for the account of the server, and whom it lets in.
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.run, self.secrets):
            path.mkdir(exist_ok=True)
        self.secrets.chmod(0o700)
        write_format(self.directory, new_format())

    def check(self) -> None:
        """Refuse a directory that is missing or of another format.

        Raises:
            Invalid: it is not a data directory.
            Conflict: it is of another format; the command that helps is named.
            Corrupt: what it says of its format is nonsense.
        """
        if not check_format(self.directory):
            raise Invalid(
                f"opening {self.directory}: not a profilelake data directory; "
                "name one with --dir or start the server there once: profilelake serve"
            )


_EXPECTED: Final = frozenset(
    {"profilelake.toml", "definitions", "secrets", "run"}
    | {name for file in (GUARD, DETAILS) for name in (file, f".{file}.new")}
)
"""What may be there before the first start, or appear from another one at the same time."""
