"""Settings: where and how, read once at start and passed down.

Arguments win over the environment (`PROFILELAKE_<SECTION>_<FIELD>`), that over
`DIR/profilelake.toml`, that over the defaults here.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Self

from profilelake.directory_format import FORMAT
from profilelake.errors import Invalid
from profilelake.layout import Layout
from profilelake.semantics.consent import DEFAULT_POLICY, POLICIES, Policy

__all__ = ["FORMAT", "HttpSettings", "Layout", "LogSettings", "PipelineSettings", "Settings"]

UNKNOWN_KEY: Final = ("reject", "accept_and_drop")
"""What may become of events whose write key is not good."""
CATALOG_AUTH: Final = ("oauth", "bearer", "sigv4", "none")
"""How a REST catalog may know us."""
TABLE_LOCATIONS: Final = ("warehouse", "catalog")
"""Who may choose the folders of tables."""
JAIL: Final = ("required", "off")
"""Whether SQL over HTTP needs a jail to run in."""
ADDRESSING: Final = ("auto", "path", "virtual")
"""Where requests to an object store name the bucket."""
PLAIN_HTTP: Final = ("refused", "allowed")
"""Whether an object store may be spoken to without TLS."""
REGION_BYTES_MAX: Final = 64
"""Bytes of a region's name; it is written into every log segment."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How requests come in."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8080
    """Port to listen on; 0 takes a free one."""
    processes: int = 2
    """Collecting and serving processes; they share the port."""
    profile_requests_per_second: int = 0
    """What a space may ask of the Profile API per second and process; 0 for no limit."""
    trusted_proxies: str = ""
    """Networks, separated by commas, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""
    public_url: str = ""
    """Where browsers reach this server, such as `https://events.example.org`; empty takes the Host header
    of their requests."""
    unknown_key: str = "reject"
    """What events with a write key get that does not exist, or whose source is disabled: `reject` answers
    401, `accept_and_drop` answers 200 and only counts them."""
    browser_bundles: str = ""
    """Directory of the browser SDKs to serve, seen from the data directory; empty serves none."""

    def proxies(self) -> tuple[str, ...]:
        """Return `trusted_proxies` one by one."""
        return tuple(part.strip() for part in self.trusted_proxies.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """How events become profiles and tables."""

    micro_batch_seconds: float = 0.1
    """Least time from the start of one micro-batch to the start of the next."""
    micro_batch_events_max: int = 100_000
    """Events one micro-batch takes at most."""
    watermark_wait_seconds: float = 0.2
    """How long a collecting process that stopped moving may hold the others back."""
    lake_age_seconds: float = 5.0
    """How far the Iceberg tables may lag behind accepted events."""
    publish_age_seconds: float = 300.0
    """How far the bases of current tables may lag behind their change logs."""
    log_retention_hours: float = 24.0
    """How long the event log is kept after its events are in the lake."""
    feed_retention_hours: float = 168.0
    """How long changes of computed traits and audiences can be read from the feed."""
    failed_retention_days: float = 30.0
    """How long failed events are kept after they were received, to the end of the day (UTC); older ones go and are
    counted as expired. 0 keeps them for ever."""
    consent_policy: str = DEFAULT_POLICY
    """What the parts of one profile amount to that say different things of consent: `most_restrictive`,
    `latest` or `conflict`."""

    def policy(self) -> Policy:
        """Return `consent_policy` as what it is."""
        return next(known for known in POLICIES if known == self.consent_policy)


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the event log may take of its disk."""

    bytes_max: int = 64 * 1024 * 1024 * 1024
    """Bytes of the whole event log. At this size senders are told to come back; what is in the lake
    already makes room before its time."""


@dataclass(frozen=True, slots=True)
class SqlSettings:
    """What SQL over HTTP may take."""

    jail: str = "required"
    """Whether a query must run where the kernel lets it do nothing but compute. `required` answers none
    on systems without Landlock; `off` runs them with no more than the database's own promises."""
    queries_max: int = 4
    """Queries that run at the same time."""
    queries_per_token_max: int = 2
    """Of these, queries of one token."""
    memory_bytes: int = 1024 * 1024 * 1024
    """Memory of one query."""
    threads: int = 2
    """Threads of one query."""
    seconds_max: float = 60.0
    """How long a query may take whose result is waited for."""
    job_seconds_max: float = 3_600.0
    """How long a query may take that runs as a job."""
    rows_max: int = 100_000_000
    """Rows of one result."""
    result_bytes_max: int = 16 * 1024 * 1024 * 1024
    """Bytes of one result."""
    spool_bytes_max: int = 8 * 1024 * 1024 * 1024
    """Bytes of all results of jobs that wait to be read."""
    keep_hours: float = 1.0
    """How long the result of a job waits to be read."""


@dataclass(frozen=True, slots=True)
class LakeSettings:
    """Where the tables lie, and how they are tended."""

    catalog: str = ""
    """Which Iceberg catalog knows the tables: `sqlite:////path/of/a/file`, `postgresql://user@host/database`, or
    the `https://` address of a REST catalog; empty takes `catalog.sqlite` in the data directory. Never with a
    password."""
    warehouse: str = ""
    """Where the files of the tables lie: a folder, or `s3://bucket/prefix`; empty takes `lake` in the data
    directory."""
    catalog_secret_file: str = ""
    """File that holds the password of the catalog, a token, or `key:secret` for a token, in one line. The
    variable PROFILELAKE_CATALOG_SECRET wins over it; PostgreSQL reads `~/.pgpass` where there is neither."""
    catalog_auth: str = "oauth"
    """How a REST catalog knows us: `oauth` gets tokens for the secret `key:secret`, `bearer` shows the secret,
    `sigv4` signs with the keys of AWS, `none` says nothing."""
    catalog_options: str = ""
    """More properties for a REST catalog, as `name=value` separated by commas, such as `warehouse=name`,
    `scope=PRINCIPAL_ROLE:ALL`, `oauth2-server-uri=https://...`, `rest.signing-region=eu-west-1`."""
    catalog_plain_http: str = "refused"
    """Whether a REST catalog, or a server of its tokens, is spoken to without TLS (`http://`) on another machine than
    this: `allowed` or `refused`. The secret would pass in the clear."""
    table_locations: str = "warehouse"
    """Who chooses the folders of new tables: `warehouse` puts them below the warehouse, `catalog` leaves it to a
    REST catalog that allows nothing else."""
    maintenance_share: float = 0.2
    """Part of the time that compaction and clean-up may take of one processor core."""
    snapshot_hours: float = 24.0
    """How long snapshots of a table with few commits are kept; those of busy tables go sooner, after five
    minutes at the least."""
    orphan_minutes: float = 60.0
    """How old a file that no snapshot reaches must be before it is removed. Longer than any write takes."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How an object store is spoken to, where the warehouse lies on one. Holds no credentials.

    Those come from the environment or the role of the machine, as its provider's tools find them
    (`AWS_ACCESS_KEY_ID`, web identity, container and instance roles), or from the file named here.
    """

    endpoint: str = ""
    """URL of the server, such as `https://s3.example.org:9000`; empty takes that of Amazon."""
    region: str = ""
    """Region of the bucket; empty takes what the environment says, or `us-east-1`."""
    addressing: str = "auto"
    """Where requests name the bucket: in the `path`, or in the name of a `virtual` host. `auto` takes the
    path with an endpoint of your own and the host without."""
    plain_http: str = "refused"
    """Whether an endpoint without TLS is spoken to: `allowed` or `refused`."""
    credentials: str = ""
    """File with credentials in the format of Amazon's tools (section `default`), seen from the data
    directory; it is read again when it changes. Empty takes them from the environment or the machine's role."""
    connect_seconds: float = 5.0
    """How long connecting may take."""
    request_seconds: float = 30.0
    """How long one request may take, from the first byte sent to the last one read."""
    retry_seconds: float = 120.0
    """How long a request is tried again that a busy or broken server did not answer."""
    retries_max: int = 10
    """How often one is tried again in that time, with growing pauses of random length between."""
    requests_max: int = 16
    """Requests under way at a time for one upload, or ahead of one reader."""
    cache_bytes: int = 4 * 1024 * 1024 * 1024
    """Bytes of the folder of this machine in which files of the warehouse lie that SQL over HTTP has read."""


@dataclass(frozen=True, slots=True)
class ActivateSettings:
    """How changes are delivered to destinations."""

    allow_private: str = ""
    """Networks, separated by commas, that destinations may be in although they are not public, such as
    `10.1.0.0/16`; there, and nowhere else, HTTP without TLS is taken too."""
    connect_seconds: float = 10.0
    """How long connecting to a receiver may take."""
    answer_seconds: float = 30.0
    """How long a receiver may take for one batch, from the first byte sent to the last one read."""
    dead_letters_max: int = 100_000
    """Dead letters that each destination keeps. With so many, one that has more to give up waits, and takes nothing
    from the feed, until some are replayed, discarded or expire."""
    dead_letters_days: float = 30.0
    """How long dead letters are kept; older ones go unsent and are counted as expired. 0 keeps them for ever."""

    def networks(self) -> tuple[str, ...]:
        """Return `allow_private` one by one."""
        return tuple(part.strip() for part in self.allow_private.split(",") if part.strip())


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where batch plans run."""

    url: str = ""
    """Where: empty is this machine; `local[N]`, `spark://host:7077`, `k8s://https://host:6443`, `yarn` are masters of
    Apache Spark, `sc://host:15002` is a Spark Connect server, `submitted` whatever `spark-submit` has set."""
    tasks: int = 0
    """Tasks that run at the same time, by which plans choose how finely they cut; 0 asks the cluster."""
    driver_memory: str = "2g"
    """Memory of the driver's JVM."""
    executor_memory: str = "2g"
    """Memory of an executor's JVM; our work is not in there."""
    executor_overhead: str = "4g"
    """Memory of an executor beside its JVM: the Python workers, where all of our work is."""
    executor_python: str = ""
    """Python of executors on other machines, with the driver's version of profilelake; empty is `python3` there."""
    scratch: str = ""
    """Folder of this machine for what is spread meanwhile; empty takes `run/engine` in the data directory."""
    jars: str = ""
    """Folder of the JARs that Spark is given for SQL on our tables; empty takes `jars` in the data directory."""
    maven_url: str = "https://repo1.maven.org/maven2"
    """Where `profilelake engine fetch` gets JARs, unless `~/.m2/settings.xml` names a mirror. Without a password."""
    job_days: float = 7.0
    """How long what an unfinished job has done is kept for going on with it."""
    conf: Mapping[str, str] = field(default_factory=dict)
    """More properties of Spark: the table `[engine.conf]`; in the environment a JSON object. They win over ours."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one data directory."""

    directory: Path
    region: str = "local"
    """Name of this region; part of every position."""
    http: HttpSettings = field(default_factory=HttpSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    log: LogSettings = field(default_factory=LogSettings)
    sql: SqlSettings = field(default_factory=SqlSettings)
    lake: LakeSettings = field(default_factory=LakeSettings)
    activate: ActivateSettings = field(default_factory=ActivateSettings)
    storage: StorageOptions = field(default_factory=StorageOptions)
    backup: StorageOptions = field(default_factory=StorageOptions)
    """How the object store is spoken to that keeps backups: as `storage` says, where this section says nothing."""
    engine: EngineSettings = field(default_factory=EngineSettings)

    @classmethod
    def load(cls, directory: Path, environment: Mapping[str, str], **overrides: dict[str, Any]) -> Self:
        """Read the settings of a data directory; `overrides` name a section and its fields.

        Raises:
            Invalid: a file, a name or a value that cannot be read, with its place.
        """
        path = directory / "profilelake.toml"
        document = _read(path)
        named = document.pop("region", "local")
        region = _region(environment.get("PROFILELAKE_REGION") or named)
        sections: dict[str, Any] = {
            "http": HttpSettings(),
            "pipeline": PipelineSettings(),
            "log": LogSettings(),
            "sql": SqlSettings(),
            "lake": LakeSettings(),
            "activate": ActivateSettings(),
            "storage": StorageOptions(),
            "backup": StorageOptions(),
            "engine": EngineSettings(),
        }
        for name in sorted(document.keys() - sections.keys()):
            raise Invalid(
                f"reading {path}: no section [{name}]; there are {', '.join(sections)}, "
                "and `region` before the first of them"
            )
        for name, section in sections.items():
            values = document.get(name, {})
            if not isinstance(values, dict):
                raise Invalid(f"reading {path}: {name} = {values!r} is not a section; write [{name}]")
            prefix = f"PROFILELAKE_{name}_".upper()
            values |= {
                variable.removeprefix(prefix).lower(): text
                for variable, text in environment.items()
                if variable.startswith(prefix)
            }
            values |= {key: value for key, value in overrides.get(name, {}).items() if value is not None}
            base = sections["storage"] if name == "backup" else section
            sections[name] = _with_values(base, name, values)
        for proxy in sections["http"].proxies():
            _check_network(proxy)
        for network in sections["activate"].networks():
            _check_network(network, "activate.allow_private")
        _check_public_url(sections["http"].public_url)
        _check_unknown_key(sections["http"].unknown_key)
        _check_jail(sections["sql"].jail)
        _check_policy(sections["pipeline"].consent_policy)
        for name in ("storage", "backup"):
            sections[name] = _checked_storage(sections[name], directory, name)
        _check_one_of("lake.catalog_auth", sections["lake"].catalog_auth, CATALOG_AUTH)
        _check_one_of("lake.catalog_plain_http", sections["lake"].catalog_plain_http, PLAIN_HTTP)
        _check_one_of("lake.table_locations", sections["lake"].table_locations, TABLE_LOCATIONS)
        return cls(directory=directory, region=region, **sections)


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "port": (0, 65_535),
    "processes": (1, 64),
    "profile_requests_per_second": (0, 1_000_000),
    "micro_batch_seconds": (0, 60),
    "micro_batch_events_max": (1, 1_000_000),
    "watermark_wait_seconds": (0, 60),
    "lake_age_seconds": (0, 86_400),
    "publish_age_seconds": (0, 86_400),
    "log_retention_hours": (0, 24 * 28),
    "bytes_max": (64 * 1024 * 1024, 1 << 50),
    "queries_max": (1, 1_000),
    "queries_per_token_max": (1, 1_000),
    "memory_bytes": (64 * 1024 * 1024, 1 << 44),
    "threads": (1, 256),
    "seconds_max": (1, 86_400),
    "job_seconds_max": (1, 7 * 86_400),
    "rows_max": (1, 1 << 40),
    "result_bytes_max": (1024 * 1024, 1 << 50),
    "spool_bytes_max": (1024 * 1024, 1 << 50),
    "keep_hours": (0.001, 24 * 28),
    "tasks": (0, 100_000),
    "job_days": (0.01, 365),
    "maintenance_share": (0.01, 1),
    "snapshot_hours": (1, 24 * 365),
    "feed_retention_hours": (1, 24 * 365),
    "failed_retention_days": (0, 3_650),
    "connect_seconds": (0.1, 300),
    "answer_seconds": (0.1, 600),
    "dead_letters_max": (1, 10_000_000),
    "dead_letters_days": (0, 3_650),
    "orphan_minutes": (10, 60 * 24 * 30),
    "request_seconds": (1, 3_600),
    "retry_seconds": (0, 3_600),
    "retries_max": (0, 100),
    "requests_max": (1, 256),
    "cache_bytes": (64 * 1024 * 1024, 1 << 50),
}
"""Least and greatest value of each number."""


_PUBLIC_URL: Final = re.compile(
    r"https?://(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~-]+)*/?",
    re.ASCII,
)


_ENDPOINT: Final = re.compile(r"https?://(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?", re.ASCII)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"reading {path}: {error}") from error


def _region(name: object) -> str:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) <= REGION_BYTES_MAX:
        raise Invalid(f"setting region = {name!r}: give a name of 1 to {REGION_BYTES_MAX} bytes")
    return name


def _check_network(text: str, name: str = "http.trusted_proxies") -> None:
    try:
        ip_network(text, strict=False)
    except ValueError as error:
        raise Invalid(
            f"setting {name}: {text!r} is no network; write them as 10.0.0.0/8, 192.0.2.7"
        ) from error


def _check_public_url(text: str) -> None:
    # It goes into documents that browsers believe, so nothing passes that could be read in two ways.
    if text and not _PUBLIC_URL.fullmatch(text):
        raise Invalid(
            f"setting http.public_url = {text!r}: give a URL such as https://events.example.org, with a port"
            " or a path where there is one, and nothing after that"
        )


def _check_unknown_key(text: str) -> None:
    if text not in UNKNOWN_KEY:
        raise Invalid(f"setting http.unknown_key = {text!r}: give one of {', '.join(UNKNOWN_KEY)}")


def _check_jail(text: str) -> None:
    if text not in JAIL:
        raise Invalid(f"setting sql.jail = {text!r}: give one of {', '.join(JAIL)}")


def _check_policy(text: str) -> None:
    if text not in POLICIES:
        raise Invalid(f"setting pipeline.consent_policy = {text!r}: give one of {', '.join(POLICIES)}")


def _checked_storage(options: StorageOptions, directory: Path, section: str) -> StorageOptions:
    if options.addressing not in ADDRESSING:
        raise Invalid(
            f"setting {section}.addressing = {options.addressing!r}: give one of {', '.join(ADDRESSING)}"
        )
    if options.plain_http not in PLAIN_HTTP:
        raise Invalid(
            f"setting {section}.plain_http = {options.plain_http!r}: give one of {', '.join(PLAIN_HTTP)}"
        )
    if options.endpoint and not _ENDPOINT.fullmatch(options.endpoint):
        # Not repeated: a URL may hold a password.
        raise Invalid(
            f"setting {section}.endpoint: give a URL such as https://s3.example.org:9000, without user or password"
        )
    if options.endpoint.startswith("http:") and options.plain_http != "allowed":
        raise Invalid(
            f"setting {section}.endpoint = {options.endpoint!r}: that is without TLS; "
            'write plain_http = "allowed" beside it where the network is trusted'
        )
    if not options.credentials:
        return options
    return replace(options, credentials=str((directory / options.credentials).absolute()))


def _check_one_of(name: str, text: str, choices: tuple[str, ...]) -> None:
    if text not in choices:
        raise Invalid(f"setting {name} = {text!r}: give one of {', '.join(choices)}")


def _with_values(section: Any, name: str, values: Mapping[str, Any]) -> Any:
    known = {known.name: type(getattr(section, known.name)) for known in fields(section)}
    for key in sorted(values.keys() - known.keys()):
        raise Invalid(f"setting {name}.{key}: no such setting; there are {', '.join(known)}")
    return replace(
        section, **{key: _value(f"{name}.{key}", known[key], value) for key, value in values.items()}
    )


def _value(name: str, kind: type, value: Any) -> str | int | float | dict[str, str]:
    """Return a value from a file, the environment or an argument as its setting has it."""
    if kind is dict:
        return _table(name, value)
    if kind is str:
        if not isinstance(value, str):
            raise Invalid(f"setting {name} = {value!r}: not text; put it in quotes")
        return value
    least, most = _RANGES[name.partition(".")[2]]
    try:
        # Whole numbers by way of their text: 1.5 and true are mistakes, not 1.
        number: float = int(str(value)) if kind is int else float(value)
    except (TypeError, ValueError) as error:
        wanted = "a whole number" if kind is int else "a number"
        raise Invalid(f"setting {name} = {value!r}: not {wanted}") from error
    if isinstance(value, bool) or math.isnan(number) or not least <= number <= most:
        raise Invalid(f"setting {name} = {value!r}: give {least:,} to {most:,}")
    return number


def _table(name: str, value: Any) -> dict[str, str]:
    """Return a table of texts; numbers and truths are written as Spark writes them."""
    try:
        table = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Invalid(f"setting {name}: not a JSON object of texts: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(part, (str, int, float)) for part in table.values()):
        raise Invalid(f'setting {name}: not a table of texts; write "spark.name" = "value" in it')
    return {key: str(part).lower() if isinstance(part, bool) else str(part) for key, part in table.items()}
