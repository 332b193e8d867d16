"""What other engines must be told to read this lake: the lines of their configuration, with fitting versions.

Nothing here is a secret: passwords stay in the environment, in `~/.pgpass` or where the engine wants them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlencode, urlsplit

from profilelake.errors import Invalid
from profilelake.lake.catalogs import CATALOG_NAME
from profilelake.lake.files import is_remote
from profilelake.lake.place import SECRET_VARIABLE, LakePlace

ICEBERG: Final = "1.12.0"
"""Version of Iceberg's libraries for Spark that our tests run with."""
SPARK: Final[Mapping[str, str]] = {"4.1": "4.1_2.13", "3.5": "3.5_2.12"}
"""Versions of Spark that our tests run with, and the Iceberg runtime of each."""
POSTGRESQL_DRIVER: Final = "org.postgresql:postgresql:42.7.8"
SQLITE_DRIVER: Final = "org.xerial:sqlite-jdbc:3.50.3.0"

_TLS: Final = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey"})
"""What both libpq and the driver of Java call the same."""


@dataclass(frozen=True, slots=True)
class SparkLines:
    """Packages to fetch from Maven, and properties to set."""

    packages: tuple[str, ...]
    properties: Mapping[str, str]

    def options(self) -> list[str]:
        """Return the options of `spark-submit`, `spark-sql` and `pyspark`."""
        options = [f"--packages {','.join(self.packages)}"]
        options += [f"--conf {_quoted(f'{name}={value}')}" for name, value in self.properties.items()]
        return options


def spark(place: LakePlace, version: str = "4.1") -> SparkLines:
    """Return what Spark must be told to read, and write, this lake as catalog `profilelake`.

    Raises:
        Invalid: no such version was tried.
    """
    if version not in SPARK:
        raise Invalid(
            f"connecting Spark {version}: an Iceberg runtime was tried for {', '.join(SPARK)}; give one of these"
        )
    packages = [f"org.apache.iceberg:iceberg-spark-runtime-{SPARK[version]}:{ICEBERG}"]
    told: dict[str, str] = {}
    if place.kind == "rest":
        told |= {"type": "rest", "uri": place.catalog, **dict(place.properties())}
        if place.auth == "oauth":
            told["credential"] = f"env:{SECRET_VARIABLE}"
            told.setdefault("oauth2-server-uri", f"{place.catalog}/v1/oauth/tokens")
        elif place.auth == "bearer":
            told["token"] = f"env:{SECRET_VARIABLE}"
        elif place.auth == "sigv4":
            told["rest.sigv4-enabled"] = "true"
    else:
        packages.append(POSTGRESQL_DRIVER if place.kind == "postgresql" else SQLITE_DRIVER)
        told |= {
            "type": "jdbc",
            "uri": _jdbc(place),
            "jdbc.schema-version": "V1",
            "warehouse": place.warehouse,
        }
        if user := urlsplit(place.catalog).username:
            told["jdbc.user"] = unquote(user)
    if is_remote(place.warehouse):
        packages.append(f"org.apache.iceberg:iceberg-aws-bundle:{ICEBERG}")
        told["io-impl"] = "org.apache.iceberg.aws.s3.S3FileIO"
        told["client.region"] = place.storage.region or "us-east-1"
        if place.storage.endpoint:
            told["s3.endpoint"] = place.storage.endpoint
            told["s3.path-style-access"] = "true" if place.storage.addressing != "virtual" else "false"
    # Spark would not see what we commit until told to look again.
    told["cache-enabled"] = "false"
    named = f"spark.sql.catalog.{CATALOG_NAME}"
    return SparkLines(
        tuple(packages),
        {
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            named: "org.apache.iceberg.spark.SparkCatalog",
            **{f"{named}.{name}": value for name, value in told.items()},
            "spark.sql.session.timeZone": "UTC",
        },
    )


def trino(place: LakePlace) -> dict[str, str]:
    """Return the lines of `etc/catalog/profilelake.properties`.

    Raises:
        Invalid: the catalog is one that Trino cannot reach.
    """
    lines = {"connector.name": "iceberg"}
    if place.kind == "sqlite":
        raise Invalid(
            "connecting Trino: it reads no SQLite catalog; move this one to PostgreSQL or a REST catalog: "
            "profilelake lake move --help"
        )
    if place.kind == "rest":
        options = dict(place.properties())
        lines |= {"iceberg.catalog.type": "rest", "iceberg.rest-catalog.uri": place.catalog}
        if "warehouse" in options:
            lines["iceberg.rest-catalog.warehouse"] = options["warehouse"]
        if place.auth in ("oauth", "bearer"):
            lines["iceberg.rest-catalog.security"] = "OAUTH2"
            shown = "credential" if place.auth == "oauth" else "token"
            lines[f"iceberg.rest-catalog.oauth2.{shown}"] = f"${{ENV:{SECRET_VARIABLE}}}"
        if place.auth == "oauth":
            server = options.get("oauth2-server-uri", f"{place.catalog}/v1/oauth/tokens")
            lines["iceberg.rest-catalog.oauth2.server-uri"] = server
            if "scope" in options:
                lines["iceberg.rest-catalog.oauth2.scope"] = options["scope"]
        if place.auth == "sigv4":
            lines["iceberg.rest-catalog.security"] = "SIGV4"
    else:
        lines |= {
            "iceberg.catalog.type": "jdbc",
            "iceberg.jdbc-catalog.catalog-name": CATALOG_NAME,
            "iceberg.jdbc-catalog.driver-class": "org.postgresql.Driver",
            "iceberg.jdbc-catalog.connection-url": _jdbc(place),
            "iceberg.jdbc-catalog.connection-user": unquote(urlsplit(place.catalog).username or ""),
            "iceberg.jdbc-catalog.connection-password": f"${{ENV:{SECRET_VARIABLE}}}",
            "iceberg.jdbc-catalog.default-warehouse-dir": place.warehouse,
        }
    if not is_remote(place.warehouse):
        return lines | {"fs.hadoop.enabled": "true"}
    lines |= {"fs.native-s3.enabled": "true", "s3.region": place.storage.region or "us-east-1"}
    if place.storage.endpoint:
        lines["s3.endpoint"] = place.storage.endpoint
        lines["s3.path-style-access"] = "true" if place.storage.addressing != "virtual" else "false"
    lines["s3.aws-access-key"] = "${ENV:AWS_ACCESS_KEY_ID}"
    lines["s3.aws-secret-key"] = "${ENV:AWS_SECRET_ACCESS_KEY}"
    return lines


def duckdb(place: LakePlace, pointers: Mapping[tuple[str, str], str]) -> list[str]:
    """Return SQL for DuckDB: a REST catalog attached, or views on the tables as they are now."""
    lines = ["INSTALL iceberg; LOAD iceberg;"]
    if is_remote(place.warehouse):
        lines += ["INSTALL httpfs; LOAD httpfs;", _duckdb_storage(place)]
    if place.kind == "rest":
        options = dict(place.properties())
        server = options.get("oauth2-server-uri", f"{place.catalog}/v1/oauth/tokens")
        secret = f"OAUTH2_SERVER_URI {_text(server)}, CLIENT_ID '...', CLIENT_SECRET '...'"
        if place.auth == "bearer":
            secret = "TOKEN '...'"  # noqa: S105 - none
        attached = f"TYPE iceberg, ENDPOINT {_text(place.catalog)}, SECRET catalog"
        lines += [
            f"CREATE SECRET catalog (TYPE iceberg, {secret});",
            f"ATTACH {_text(options.get('warehouse', ''))} AS {CATALOG_NAME} ({attached});",
        ]
        return lines
    lines.append("-- DuckDB attaches no SQL catalog: these are the tables as they are now.")
    schemas = sorted({namespace for namespace, _ in pointers})
    lines += [f'CREATE SCHEMA IF NOT EXISTS "{schema}";' for schema in schemas]
    lines += [
        f'CREATE OR REPLACE VIEW "{namespace}"."{name}" AS FROM iceberg_scan({_text(location)});'
        for (namespace, name), location in sorted(pointers.items())
    ]
    return lines


def pyiceberg(place: LakePlace) -> list[str]:
    """Return Python that loads the catalog, its secret from the environment."""
    told: dict[str, str] = {}
    lines = ["from pyiceberg.catalog import load_catalog", ""]
    secret = f'os.environ["{SECRET_VARIABLE}"]'
    more: list[str] = []
    if place.kind == "rest":
        told |= {"type": "rest", "uri": place.catalog, **dict(place.properties())}
        if place.auth == "oauth":
            told.setdefault("oauth2-server-uri", f"{place.catalog}/v1/oauth/tokens")
            more.append(f'    "credential": {secret},')
        elif place.auth == "bearer":
            more.append(f'    "token": {secret},')
        elif place.auth == "sigv4":
            told["rest.sigv4-enabled"] = "true"
    else:
        told |= {"type": "sql", "uri": place.catalog.replace("postgresql://", "postgresql+psycopg://", 1)}
        told["warehouse"] = place.warehouse
    if is_remote(place.warehouse):
        told["s3.region"] = place.storage.region or "us-east-1"
        if place.storage.endpoint:
            told["s3.endpoint"] = place.storage.endpoint
    if more:
        lines = ["import os", "", *lines]
    body = [f"    {json.dumps(name)}: {json.dumps(value)}," for name, value in told.items()]
    return [*lines, f'catalog = load_catalog("{CATALOG_NAME}", **{{', *body, *more, "})"]


def _jdbc(place: LakePlace) -> str:
    parts = urlsplit(place.catalog)
    if place.kind == "sqlite":
        return f"jdbc:sqlite:{place.catalog.removeprefix('sqlite:///')}"
    query = [pair.partition("=")[::2] for pair in parts.query.split("&") if pair]
    kept = urlencode([(name, unquote(value)) for name, value in query if name in _TLS])
    host = f"{parts.hostname or 'localhost'}:{parts.port or 5432}"
    return f"jdbc:postgresql://{host}{parts.path}{f'?{kept}' if kept else ''}"


def _duckdb_storage(place: LakePlace) -> str:
    told = ["TYPE s3", "PROVIDER credential_chain", f"REGION {_text(place.storage.region or 'us-east-1')}"]
    if place.storage.endpoint:
        parts = urlsplit(place.storage.endpoint)
        style = "path" if place.storage.addressing != "virtual" else "vhost"
        told += [f"ENDPOINT {_text(parts.netloc)}", f"URL_STYLE '{style}'"]
        told += [] if parts.scheme == "https" else ["USE_SSL false"]
    return f"CREATE SECRET files ({', '.join(told)});"


def _text(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _quoted(text: str) -> str:
    return f"'{text}'" if set(text) & set(" *?&;|<>()$`\"'\\!{}[]#~") else text
