"""Where the lake of a data directory lies: by its settings, noted, and never changed unseen."""

import pickle
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from lake_examples import VISITS, upto, visits
from profilelake.errors import Conflict, Corrupt, Invalid
from profilelake.lake.catalog import Lake
from profilelake.lake.place import LakePlace, noted_place
from profilelake.lake.sql_catalog import leaves_machine
from profilelake.settings import Layout


def directory(folder: Path, *lines: str) -> Layout:
    folder.mkdir(exist_ok=True)
    (folder / "profilelake.toml").write_text("\n".join(["[lake]", *lines]))
    return Layout(folder)


def place(folder: Path, *lines: str, **environment: str) -> LakePlace:
    return LakePlace.of(directory(folder, *lines), environment)


def test_without_settings_it_is_in_the_directory(tmp_path: Path) -> None:
    here = place(tmp_path)
    assert here.catalog == f"sqlite:///{tmp_path}/catalog.sqlite"
    assert here.warehouse == f"file://{tmp_path}/lake"
    assert here.kind == "sqlite"


@pytest.mark.parametrize(
    ("catalog", "warehouse", "means"),
    [
        ("sqlite:///other.db", "big", ("sqlite:///{}/other.db", "file://{}/big", "sqlite")),
        ("sqlite:////var/c.db", "file:///mnt/big/", ("sqlite:////var/c.db", "file:///mnt/big", "sqlite")),
        ("postgres://u@h/d", "s3://b/p/", ("postgresql://u@h/d", "s3://b/p", "postgresql")),
        ("postgresql+psycopg://h/d", "/mnt/l", ("postgresql://h/d", "file:///mnt/l", "postgresql")),
        ("https://rest.example.org/", "s3://b", ("https://rest.example.org", "s3://b", "rest")),
    ],
)
def test_settings_say_where(
    tmp_path: Path, catalog: str, warehouse: str, means: tuple[str, str, str]
) -> None:
    found = place(tmp_path, f'catalog = "{catalog}"', f'warehouse = "{warehouse}"')
    assert (found.catalog, found.warehouse, found.kind) == tuple(text.format(tmp_path) for text in means)


def test_the_environment_wins(tmp_path: Path) -> None:
    found = place(tmp_path, 'warehouse = "here"', PROFILELAKE_LAKE_WAREHOUSE="s3://there/x")
    assert found.warehouse == "s3://there/x"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('catalog = "mysql://h/d"', "'mysql' is no kind of catalog"),
        ('catalog = "postgresql://u@h"', "names no database"),
        ('catalog = "https:///x"', "names no host"),
        ('catalog = "postgresql://h:port/d"', "write postgresql://host:port/path"),
        ('catalog = "sqlite://"', "give its absolute path"),
        ('warehouse = "s3://"', "names no bucket"),
        ('warehouse = "a*b"', "choose another"),
        ('catalog_auth = "kerberos"', "give one of oauth, bearer, sigv4, none"),
        ('table_locations = "mine"', "give one of warehouse, catalog"),
        ('catalog_plain_http = "yes"', "give one of refused, allowed"),
    ],
)
def test_what_is_no_place_is_refused(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        place(tmp_path, line)


PLAIN_TOKENS = ('catalog = "https://h"', 'catalog_options = "oauth2-server-uri=http://tokens.example.org/t"')


@pytest.mark.parametrize("lines", [('catalog = "http://h.example.org/path"',), PLAIN_TOKENS])
def test_no_secret_goes_over_a_network_in_the_clear(tmp_path: Path, lines: tuple[str, ...]) -> None:
    said = 'is without TLS, and secrets and tokens would pass in the clear; .* catalog_plain_http = "allowed"'
    with pytest.raises(Invalid, match=rf"lake.catalog.* = 'http://.*{said}"):
        place(tmp_path, *lines)
    assert place(tmp_path, *lines, 'catalog_plain_http = "allowed"').kind == "rest"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8181", "[::1]:8181"])
def test_on_this_machine_a_catalog_needs_no_tls(tmp_path: Path, host: str) -> None:
    server = f"oauth2-server-uri=http://{host}/t"
    assert place(tmp_path, f'catalog = "http://{host}/c"', f'catalog_options = "{server}"').kind == "rest"


@pytest.mark.parametrize(
    ("url", "environment", "leaves"),
    [
        ("postgresql://h/d", {}, True),
        ("postgresql://localhost/d", {"PGHOST": "h"}, False),
        ("postgresql:///d", {}, False),
        ("postgresql:///d", {"PGHOST": "/run/postgresql"}, False),
        ("postgresql:///d", {"PGHOST": "h"}, True),
        ("postgresql:///d?host=127.0.0.1,h", {}, True),
        ("postgresql:///d?host=127.0.0.1&host=h", {}, True),
        ("postgresql://localhost/d?hostaddr=10.0.0.1", {}, True),
        ("postgresql://localhost/d", {"PGHOSTADDR": "10.0.0.1"}, True),
        ("postgresql:///d?service=lake", {}, True),
        ("postgresql:///d", {"PGSERVICE": "lake"}, True),
    ],
)
def test_tls_is_asked_for_wherever_postgresql_may_be_elsewhere(
    url: str, environment: dict[str, str], leaves: bool
) -> None:
    assert leaves_machine(make_url(url), environment) is leaves


@pytest.mark.parametrize("url", ["postgresql://u:geheim@h/d", "postgresql://u@h/d?password=geheim"])
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(Invalid, match="holds a password; put that into") as told:
        place(tmp_path, f'catalog = "{url}"')
    assert "geheim" not in str(told.value)


def test_a_secret_is_read_when_it_is_needed_and_is_no_part_of_the_place(tmp_path: Path) -> None:
    found = place(tmp_path, 'catalog = "https://h"', 'catalog_secret_file = "secrets/catalog"')
    with pytest.raises(Invalid, match="No such file"):
        found.secret({})
    file = tmp_path / "secrets" / "catalog"
    file.parent.mkdir()
    file.write_text("geheim\n")
    file.chmod(0o644)
    with pytest.raises(Invalid, match="chmod 600"):
        found.secret({})
    file.chmod(0o600)
    assert found.secret({}) == "geheim"
    file.write_text("anders")
    assert found.secret({}) == "anders"
    assert found.secret({"PROFILELAKE_CATALOG_SECRET": "variable"}) == "variable"
    assert b"anders" not in pickle.dumps(found)
    assert "anders" not in repr(found)


@pytest.mark.parametrize("content", ["", "two\nlines", "x" * 70_000])
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "catalog"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(Invalid, match="not one line of text"):
        place(tmp_path, f'catalog_secret_file = "{file}"').secret({})


def test_properties_of_a_catalog_come_one_by_one(tmp_path: Path) -> None:
    found = place(tmp_path, 'catalog_options = "warehouse=w, scope=PRINCIPAL_ROLE:ALL,"')
    assert found.properties() == [("warehouse", "w"), ("scope", "PRINCIPAL_ROLE:ALL")]
    with pytest.raises(Invalid, match="'alone' has no value"):
        place(tmp_path, 'catalog_options = "alone"').properties()


@pytest.mark.parametrize(
    "option",
    [
        "token=hidden",
        "credential=a:hidden",
        "s3.secret-access-key=hidden",
        "header.Authorization=Bearer hidden",
        "oauth2-server-uri=https://user:hidden@host/token",
        "adls.account-key=hidden",
        "adls.sas-token.account.dfs.core.windows.net=hidden",
        "header.X-Auth-Key=hidden",
    ],
)
def test_secrets_are_no_options(tmp_path: Path, option: str) -> None:
    with pytest.raises(
        Invalid, match=r"lake\.catalog_options: .* holds a secret; .*catalog_secret_file"
    ) as told:
        place(tmp_path, f'catalog_options = "warehouse=w, {option}"')
    assert "hidden" not in str(told.value)


@pytest.mark.parametrize(
    "catalog",
    [
        "postgresql://u:hidden@h/d",
        "postgresql://u:hidden/x@h/d",
        "postgresql://u:1/hidden@h/d",
        "postgresql://h/d?password=hidden",
        "postgresql://h/d?sslmode=verify-full&sslpassword=hidden",
        "https://h/catalog?access_token=hidden",
        "postgresql:u:hidden@h/d",
    ],
)
def test_secrets_in_the_address_of_a_catalog_are_refused_and_not_repeated(
    tmp_path: Path, catalog: str
) -> None:
    with pytest.raises(Invalid, match=r"setting lake\.catalog: it") as told:
        place(tmp_path, f'catalog = "{catalog}"')
    assert "hidden" not in str(told.value)


def test_a_lake_does_not_begin_anew_elsewhere(tmp_path: Path) -> None:
    layout = directory(tmp_path / "data")
    Lake.of(layout).table("w", VISITS).append(visits(0, 3), upto(1))
    directory(tmp_path / "data", 'catalog = "sqlite:///other.sqlite"')
    with pytest.raises(Conflict, match=r"known to sqlite:.*/catalog.sqlite .*profilelake lake move"):
        Lake.of(layout)
    assert not (tmp_path / "data" / "other.sqlite").exists()
    directory(tmp_path / "data", 'warehouse = "other"')
    with pytest.raises(Conflict, match=r"settings name .*/other; put the settings back: files are not taken"):
        Lake.of(layout)
    directory(tmp_path / "data")
    assert Lake.of(layout).names("w") == ["visits"]


def test_a_lake_elsewhere_is_noted_and_found_again(tmp_path: Path) -> None:
    layout = directory(tmp_path / "data", 'catalog = "sqlite:///c.sqlite"', f'warehouse = "{tmp_path}/big"')
    assert not layout.has_lake
    assert noted_place(layout) is None
    Lake.of(layout).table("w", VISITS)
    assert layout.has_lake
    assert noted_place(layout) == LakePlace.of(layout, {})
    directory(tmp_path / "data")
    with pytest.raises(Conflict, match=r"c\.sqlite and lie in file://.*/big, settings name"):
        Lake.of(layout)
    assert not layout.catalog.exists()


def test_how_a_catalog_is_reached_may_change(tmp_path: Path) -> None:
    def identity(url: str) -> tuple[str, str]:
        return LakePlace.at(url, "s3://b/p").identity

    first = identity("postgresql://one@host/db?sslmode=require")
    assert first == identity("postgresql://two@HOST:5432/db")
    assert first != identity("postgresql://one@host/other")
    assert identity("https://h/api/") == identity("https://h:443/api")


def test_a_note_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    layout = directory(tmp_path)
    for content in ("{", "[]"):
        layout.lake_record.write_text(content)
        with pytest.raises(Corrupt, match="not what we wrote"):
            Lake.of(layout)


def test_a_first_start_elsewhere_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    # The catalog's file is made before it is noted that the warehouse is another one.
    layout = directory(tmp_path / "data", f'warehouse = "{tmp_path}/big"')
    Lake.at(LakePlace.of(layout, {})).close()
    assert layout.catalog.exists()
    assert not layout.lake_record.exists()
    Lake.of(layout).table("w", VISITS)
    assert noted_place(layout) == LakePlace.of(layout, {})


def test_two_directories_do_not_share_tables(tmp_path: Path) -> None:
    where = (f'catalog = "sqlite:///{tmp_path}/c.sqlite"', f'warehouse = "{tmp_path}/big"')
    first, second = directory(tmp_path / "first", *where), directory(tmp_path / "second", *where)
    Lake.of(first).table("w", VISITS)
    with pytest.raises(Conflict, match=r"knows tables already \(ws_w\.visits\).* cannot share tables"):
        Lake.of(second)
    assert not second.lake_record.exists()
    assert Lake.of(first).names("w") == ["visits"]
