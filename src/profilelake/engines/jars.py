"""JARs that Spark needs for SQL on our tables: which goes with which version, whether they are there, fetching them.

Our own plans need none of them: tasks read and write the files of tables themselves.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import httpx

from profilelake.errors import Corrupt, Invalid, NotFound, Unavailable

FETCH_SECONDS: Final = 60.0
"""Without a byte."""
JAR_BYTES_MAX: Final = 256 << 20
_CHUNK_BYTES: Final = 1 << 20
_SETTINGS_BYTES_MAX: Final = 1 << 20
_RUNTIME: Final = re.compile(
    r"iceberg-spark-runtime-(?P<spark>\d+\.\d+)_(?P<scala>\d+\.\d+)-(?P<version>[\w.]+)\.jar"
)


@dataclass(frozen=True, slots=True)
class Jar:
    """A file on Maven Central."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """Return its file name."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Return where it lies in a Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.name}"


def _iceberg(artifact: str, version: str, sha256: str) -> Jar:
    return Jar("org.apache.iceberg", artifact, version, sha256)


_BUNDLES: Final = {
    "1.12.0": _iceberg(
        "iceberg-aws-bundle", "1.12.0", "dd7e49ffa4ac9b215bed846581991259e3aec9bb2fa08d6cec029c46cd66d957"
    ),
    "1.11.0": _iceberg(
        "iceberg-aws-bundle", "1.11.0", "38f01da7e96850cdd05e6616d758b77b43314b712a8808e3f9a824d56976162f"
    ),
}
"""What a runtime needs for S3, and for catalogs of AWS."""

RUNTIMES: Final = {
    ("4.1", "2.13"): _iceberg(
        "iceberg-spark-runtime-4.1_2.13",
        "1.12.0",
        "3123c3798af642dd537230923548e013ef41cc28b6626e5225808cf5670a0f82",
    ),
    ("4.0", "2.13"): _iceberg(
        "iceberg-spark-runtime-4.0_2.13",
        "1.11.0",
        "63c3b812549dc232c1920865ff42436df8604a9bbacd693930985c06bd97e6dc",
    ),
    ("3.5", "2.12"): _iceberg(
        "iceberg-spark-runtime-3.5_2.12",
        "1.12.0",
        "8dd8c90e54ed1a20f2461309d047a255ee56382eb7c0a46162b27a4936fd86dc",
    ),
    ("3.5", "2.13"): _iceberg(
        "iceberg-spark-runtime-3.5_2.13",
        "1.11.0",
        "86e763a4f1b1b83f47306a1ec34c8b719002f08bb4b1adcaea520888234f1c81",
    ),
}
"""The Iceberg runtime for a Spark and its Scala. A runtime for another Spark loads, and then fails in the middle of
a query with AbstractMethodError."""

POSTGRESQL: Final = Jar(
    "org.postgresql",
    "postgresql",
    "42.7.8",
    "2a32a9dcbc42d67a50ad3a0de5efd102c8d2be46720045f2cbd6689f160ab7c7",
)
"""For a catalog on PostgreSQL."""


def scala_of(spark: str) -> str:
    """Return the Scala that a version of Spark on PyPI is built with."""
    return "2.12" if spark.startswith("3.") else "2.13"


def jars_for(spark: str, scala: str) -> tuple[Jar, ...]:
    """Return the JARs for a version of Spark. Raises Invalid where there is no runtime for it."""
    runtime = RUNTIMES.get((".".join(spark.split(".")[:2]), scala))
    if runtime is None:
        known = ", ".join(f"{s} (Scala {c})" for s, c in RUNTIMES)
        raise Invalid(
            f"no Iceberg runtime for Spark {spark} with Scala {scala}; there are runtimes for {known}"
        )
    return runtime, _BUNDLES[runtime.version], POSTGRESQL


def jars_in(folder: Path) -> list[Path]:
    """Return the JARs in a folder."""
    return sorted(folder.glob("*.jar"))


def mismatch(names: Iterable[str], spark: str, scala: str) -> str | None:
    """Say which Iceberg runtime among JARs is for another Spark, None where all are right."""
    wanted = (".".join(spark.split(".")[:2]), scala)
    for name in names:
        found = _RUNTIME.search(name)
        if found is not None and (found["spark"], found["scala"]) != wanted:
            return (
                f"{found[0]} is for Spark {found['spark']} with Scala {found['scala']}, this is Spark {spark} with "
                f"Scala {scala}"
            )
    return None


def find_jar(jar: Jar, folders: Sequence[Path]) -> Path | None:
    """Return a JAR with the right content: in one of `folders`, or where Maven or Ivy keep what they fetched."""
    home = Path.home()
    places = [folder / jar.name for folder in folders]
    places.append(home / ".m2" / "repository" / jar.path)
    places += [home / ivy / "jars" / f"{jar.group}_{jar.name}" for ivy in (".ivy2", ".ivy2.5.2")]
    return next((place for place in places if place.is_file() and _sha256(place) == jar.sha256), None)


def repository(setting: str, maven_settings: Path) -> str:
    """Return the Maven repository to fetch from: a mirror of Maven's own settings, else what our setting says."""
    try:
        text = maven_settings.read_bytes()[:_SETTINGS_BYTES_MAX]
    except FileNotFoundError:
        return setting.rstrip("/")
    if b"<!DOCTYPE" in text:
        raise Invalid(
            f"reading {maven_settings}: it has a document type, which is not read; set engine.maven_url"
        )
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - the user's own file, without a document type
    except ElementTree.ParseError as error:
        raise Invalid(f"reading {maven_settings}: {error}; set engine.maven_url") from error
    for mirror in root.iterfind(".//{*}mirror"):
        of = {part.strip() for part in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        url = (mirror.findtext("{*}url") or "").strip()
        if url and of & {"*", "central", "external:*"} and "!central" not in of:
            return url.rstrip("/")
    return setting.rstrip("/")


def fetch(jar: Jar, folder: Path, url: str, client: httpx.Client) -> Path:
    """Put a JAR into a folder, whole and with the right content, or not at all; what is there already stays.

    Raises:
        NotFound: the repository has not got it.
        Unavailable: the repository does not answer.
        Corrupt: it has another content than it should.
    """
    place = folder / jar.name
    if place.is_file() and _sha256(place) == jar.sha256:
        return place
    folder.mkdir(parents=True, exist_ok=True)
    shown = httpx.URL(url).copy_with(userinfo=b"", query=None)
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part") as sink:
        try:
            with client.stream(
                "GET", f"{url}/{jar.path}", timeout=FETCH_SECONDS, follow_redirects=True
            ) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    raise NotFound(f"fetching {jar.name}: {shown} has not got it; set engine.maven_url")
                if not answer.is_success:
                    raise Unavailable(
                        f"fetching {jar.name} from {shown}: status {answer.status_code}; try again"
                    )
                for chunk in answer.iter_bytes(_CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > JAR_BYTES_MAX:
                        raise Corrupt(f"fetching {jar.name} from {shown}: more than {JAR_BYTES_MAX:,} bytes")
                    sink.write(chunk)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"fetching {jar.name} from {shown}: {type(error).__name__}; try again, or set engine.maven_url"
            ) from error
        if digest.hexdigest() != jar.sha256:
            raise Corrupt(
                f"fetching {jar.name} from {shown}: its SHA-256 is {digest.hexdigest()}, not {jar.sha256}; nothing "
                "was kept: find out what that repository serves"
            )
        sink.flush()
        Path(sink.name).chmod(0o644)
        place.unlink(missing_ok=True)
        place.hardlink_to(sink.name)
    return place


def _sha256(place: Path) -> str:
    with place.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
