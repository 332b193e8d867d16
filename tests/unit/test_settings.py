"""Settings and the layout of a data directory: what wins, what is refused, and with which words."""

from pathlib import Path

import pytest

from profilelake.errors import Conflict, Corrupt, Invalid
from profilelake.settings import FORMAT, EngineSettings, HttpSettings, Layout, PipelineSettings, Settings


def load(directory: Path, toml: str = "", **environment: str) -> Settings:
    (directory / "profilelake.toml").write_text(toml)
    return Settings.load(directory, environment)


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert Settings.load(tmp_path, {}) == Settings(tmp_path, "local", HttpSettings(), PipelineSettings())


def test_arguments_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    toml = 'region = "eu"\n[http]\nport = 1\nhost = "file"\nprocesses = 3\n[pipeline]\nlake_age_seconds = 9'
    (tmp_path / "profilelake.toml").write_text(toml)
    environment = {"PROFILELAKE_HTTP_PORT": "2", "PROFILELAKE_HTTP_HOST": "environment", "UNRELATED": "x"}
    settings = Settings.load(tmp_path, environment, http={"host": None, "port": 4})
    assert settings.http == HttpSettings(host="environment", port=4, processes=3)
    assert settings.pipeline == PipelineSettings(lake_age_seconds=9.0)
    assert settings.region == "eu"
    assert Settings.load(tmp_path, {"PROFILELAKE_REGION": "us"}).region == "us"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://events.example.org",
        "http://127.0.0.1:8080/",
        "https://[::1]/collect/eu",
        "http://my_host",
    ],
)
def test_a_public_url_is_taken_as_it_is(tmp_path: Path, url: str) -> None:
    assert load(tmp_path, PROFILELAKE_HTTP_PUBLIC_URL=url).http.public_url == url


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[http]\nprot = 1", "http.prot: no such setting; there are host, port, processes"),
        ("[htpp]\nport = 1", "no section [htpp]; there are http, pipeline"),
        ("prot = 1", "no section [prot]"),
        ("http = 1", "http = 1 is not a section; write [http]"),
        ("[http", "profilelake.toml: "),
        ("[storage]\naddressing = 'host'", "storage.addressing = 'host': give one of auto, path, virtual"),
        ("[storage]\nplain_http = 'yes'", "storage.plain_http = 'yes': give one of refused, allowed"),
        ("[storage]\nendpoint = 'https://key:hidden@host'", "without user or password"),
        ("[storage]\nendpoint = 'http://host:9000'", "that is without TLS"),
        ("[storage]\nrequest_seconds = 0", "storage.request_seconds = 0: give 1 to 3,600"),
        ("[http]\nport = 'x'", "http.port = 'x': not a whole number"),
        ("[http]\nport = 1.5", "http.port = 1.5: not a whole number"),
        ("[http]\nport = true", "http.port = True: not a whole number"),
        ("[http]\nport = 65536", "http.port = 65536: give 0 to 65,535"),
        ("[http]\nport = -1", "http.port = -1: give 0 to 65,535"),
        ("[http]\nprocesses = 0", "http.processes = 0: give 1 to 64"),
        ("[http]\nhost = 1", "http.host = 1: not text"),
        ("[http]\ntrusted_proxies = '10.0.0.0/8, proxy'", "'proxy' is no network"),
        (
            "[pipeline]\nconsent_policy = 'strict'",
            "pipeline.consent_policy = 'strict': give one of most_restrictive, latest, conflict",
        ),
        ("[http]\nunknown_key = 'drop'", "http.unknown_key = 'drop': give one of reject, accept_and_drop"),
        *[
            (f"[http]\npublic_url = '{url}'", f"http.public_url = {url!r}: give a URL such as https://")
            for url in (
                "events.example.org",
                "ftp://events.example.org",
                "https://",
                "https://user@events.example.org",
                "https://events.example.org?x=1",
                "https://events.example.org/#x",
                'https://events.example.org/"x',
                "https://events.example.org:port",
                "https://events.example.org\\@evil.example",
            )
        ],
        ("[pipeline]\nlake_age_seconds = []", "pipeline.lake_age_seconds = []: not a number"),
        ("[pipeline]\nlake_age_seconds = nan", "pipeline.lake_age_seconds = nan: give 0 to"),
        ("[pipeline]\nlake_age_seconds = inf", "pipeline.lake_age_seconds = inf: give 0 to"),
        ("[pipeline]\nlake_age_seconds = true", "pipeline.lake_age_seconds = True: give 0 to"),
        ("region = ''", "region = '': give a name"),
        ("region = 7", "region = 7: give a name"),
        ("region = 'é" + "x" * 63 + "'", "give a name of 1 to 64 bytes"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(Invalid) as told:
        load(tmp_path, toml)
    assert message in str(told.value)


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "profilelake.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match=r"reading .*profilelake\.toml"):
        Settings.load(tmp_path, {})


@pytest.mark.parametrize("name", ["PROFILELAKE_HTTP_PROT", "PROFILELAKE_PIPELINE_", "PROFILELAKE_HTTP_PORT"])
def test_a_mistake_in_the_environment_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match=r"setting (http|pipeline)\."):
        load(tmp_path, **{name: "x"})


def test_every_number_has_a_range(tmp_path: Path) -> None:
    for section, settings in (("http", HttpSettings()), ("pipeline", PipelineSettings())):
        for name in settings.__slots__:
            if not isinstance(getattr(settings, name), str):
                with pytest.raises(Invalid, match="give"):
                    load(tmp_path, f"[{section}]\n{name} = 1_000_000_000")


def test_a_new_directory_is_made_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "new" / "data")
    with pytest.raises(Invalid, match="not a profilelake data directory; name one with --dir"):
        layout.check()
    layout.create()
    layout.check()
    layout.create()
    assert layout.secrets.stat().st_mode & 0o777 == 0o700
    assert (layout.directory / "FORMAT").read_text() == f"{FORMAT}\n"


def test_a_directory_with_only_settings_is_taken(tmp_path: Path) -> None:
    (tmp_path / "profilelake.toml").touch()
    (tmp_path / "definitions").mkdir()
    Layout(tmp_path).create()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Conflict, match=r"holds other things \(thesis.tex\); name an empty one"):
        Layout(tmp_path).create()
    with pytest.raises(Conflict, match="a file of that name"):
        Layout(tmp_path / "thesis.tex").create()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("create", [False, True])
def test_a_newer_format_is_refused_with_what_to_do(tmp_path: Path, create: bool) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    (layout.directory / "FORMAT").write_text(f"{FORMAT + 1}\n")
    with pytest.raises(Conflict, match="upgrade profilelake: pip install --upgrade profilelake"):
        layout.create() if create else layout.check()


@pytest.mark.parametrize("found", [b"", b"x", b"0", b"-1", b"\xff", "²".encode()])
def test_nonsense_for_a_format_is_corrupt(tmp_path: Path, found: bytes) -> None:
    layout = Layout(tmp_path / "data")
    layout.create()
    (layout.directory / "FORMAT").write_bytes(found)
    with pytest.raises(Corrupt, match="its file FORMAT says"):
        layout.check()


def test_credentials_of_a_store_are_seen_from_the_directory(tmp_path: Path) -> None:
    assert load(tmp_path, "[storage]\ncredentials = 'keys.ini'").storage.credentials == str(
        tmp_path / "keys.ini"
    )
    assert load(tmp_path, "[storage]\ncredentials = '/etc/keys'").storage.credentials == "/etc/keys"
    options = load(tmp_path, PROFILELAKE_STORAGE_ENDPOINT="https://s3.example.org:9000").storage
    assert (options.endpoint, options.credentials) == ("https://s3.example.org:9000", "")


def test_backups_take_what_storage_says_and_their_own_over_it(tmp_path: Path) -> None:
    text = (
        "[storage]\nregion = 'eu'\ncredentials = 'keys.ini'\n[backup]\nendpoint = 'https://far.example.org'\n"
    )
    found = load(tmp_path, text, PROFILELAKE_BACKUP_RETRIES_MAX="3")
    assert (found.backup.region, found.backup.endpoint) == ("eu", "https://far.example.org")
    assert (found.backup.credentials, found.backup.retries_max) == (str(tmp_path / "keys.ini"), 3)
    assert (found.storage.endpoint, found.storage.retries_max) == ("", 10)
    assert (
        load(tmp_path, "[storage]\nregion = 'eu'\n").backup
        == load(tmp_path, "[backup]\nregion = 'eu'\n").backup
    )
    with pytest.raises(Invalid, match=r"setting backup\.endpoint = .*without TLS"):
        load(tmp_path, "[backup]\nendpoint = 'http://far.example.org'\n")


def test_properties_of_spark_are_a_table(tmp_path: Path) -> None:
    text = '[engine]\nurl = "local[2]"\n[engine.conf]\n"spark.a" = "b"\n"spark.c" = true\n"spark.d" = 8\n'
    assert load(tmp_path, text).engine.conf == {"spark.a": "b", "spark.c": "true", "spark.d": "8"}
    assert load(tmp_path, PROFILELAKE_ENGINE_CONF='{"spark.a": "e"}').engine.conf == {"spark.a": "e"}
    for wrong in ("[1]", "{", '{"a": {}}'):
        with pytest.raises(Invalid, match=r"setting engine\.conf: not a"):
            load(tmp_path, PROFILELAKE_ENGINE_CONF=wrong)


def test_every_setting_of_engines_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    for name in EngineSettings.__slots__:
        assert f"| `engine.{name}` |" in page
