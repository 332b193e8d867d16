"""Models as they are written for Segment's warehouse and Profiles Sync, run by dbt over a file of ours.

dbt has an environment of its own, made from `requirements.txt`: what it needs is no need of ours.
"""

import os
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import pytest

from pipeline_driver import WORKSPACE, Desk
from profilelake.semantics.rules import segment_defaults
from profilelake.views.database import write_database
from profilelake.views.places import Places
from sync_vectors import CASE_STUDY, FIRST, JANE, REMOVAL, SECOND_DEVICE, TWO_PLANS, Sender, profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HERE: Final = Path(__file__).parent
INSTALL_SECONDS_MAX: Final = 600
RUN_SECONDS_MAX: Final = 300
PLACES: Final = Places("raw", "identified_events", "shop")


@pytest.fixture(scope="session")
def dbt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program `dbt` of an environment made for it."""
    folder = tmp_path_factory.mktemp("dbt")
    venv.create(folder, with_pip=True)
    subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"],
        check=True,
        timeout=INSTALL_SECONDS_MAX,
    )
    return folder / "bin" / "dbt"


class Project:
    """The models over one desk, and the file that dbt keeps them in."""

    def __init__(self, dbt: Path, desk: Desk, folder: Path) -> None:
        self._dbt = dbt
        self._desk = desk
        self._lake = folder / "lake.duckdb"
        self._models = folder / "models.duckdb"
        self._folder = folder

    def run(self, *more: str) -> None:
        """Write the views anew and build all models."""
        write_database(self._desk.lake, WORKSPACE, self._lake, PLACES)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ran = subprocess.run(
            [
                *(self._dbt, "run", "--project-dir", HERE / "project", "--profiles-dir", HERE / "project"),
                *("--target-path", self._folder / "target", "--log-path", self._folder / "logs", *more),
            ],
            env={**environment, "LAKE_FILE": str(self._lake), "MODELS_FILE": str(self._models)},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS_MAX,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self._models), read_only=True) as connection:
            rows: list[tuple[Any, ...]] = connection.sql(query).fetchall()
            return rows


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "data", rules=segment_defaults())
    yield made
    made.close()


def test_the_case_study(dbt: Path, desk: Desk, tmp_path: Path) -> None:
    project, sender = Project(dbt, desk, tmp_path), Sender(desk)
    one, two = profile(anonymous_id=FIRST), profile(anonymous_id=SECOND_DEVICE)
    graph = "SELECT segment_id, canonical_segment_id FROM id_graph ORDER BY 2, 1"
    traits = "SELECT canonical_segment_id, email, merged_to FROM profile_traits"
    shop = (
        {"type": "identify", "userId": "u9", "traits": {"plan": "pro"}},
        {"type": "page", "userId": "u9", "context": {"page": {"path": "/a"}}},
        {
            "type": "track",
            "userId": "u9",
            "event": "Order Completed",
            "properties": {"orderId": "o1", "total": 9.5},
        },
        {"type": "identify", "userId": "u9", "traits": {"email": "n@example.org"}},
    )
    sender.send([{**message, "messageId": f"shop_{number}"} for number, message in enumerate(shop)])
    sender.send(CASE_STUDY[:3])
    project.run()
    nine = profile(user_id="u9")
    assert sorted(project.ask(graph)) == sorted([(one, one), (two, two), (nine, nine)])
    assert sorted(project.ask(traits)) == sorted(
        [(one, JANE, None), (two, None, None), (nine, "n@example.org", None)]
    )
    sender.send(CASE_STUDY[3:])
    for options in ((), ("--full-refresh",)):
        project.run(*options)
        assert sorted(project.ask(graph)) == sorted([(one, one), (two, one), (nine, nine)])
        assert sorted(project.ask(traits)) == sorted(
            [(one, JANE, None), (two, None, one), (nine, "n@example.org", None)]
        )
        assert sorted(
            project.ask(
                "SELECT external_id_type, external_id_value, canonical_segment_id FROM external_id_mapping"
            )
        ) == sorted(
            [
                ("anonymous_id", FIRST, one),
                ("anonymous_id", SECOND_DEVICE, one),
                ("email", JANE, one),
                ("email", "n@example.org", nine),
                ("user_id", "u9", nine),
            ]
        )
        assert sorted(project.ask("SELECT canonical_segment_id, pages FROM first_pages")) == sorted(
            [(one, 2), (nine, 1)]
        )
        assert project.ask("SELECT * FROM user_activity") == [("u9", "pro", "n@example.org", 2, 1, 1)]
        assert project.ask("SELECT event_text, order_id, total FROM orders") == [
            ("Order Completed", "o1", 9.5)
        ]


def test_a_trait_of_two_people_who_are_one(dbt: Path, desk: Desk, tmp_path: Path) -> None:
    project, sender = Project(dbt, desk, tmp_path), Sender(desk)
    one, two = profile(anonymous_id="a1"), profile(anonymous_id="a2")
    traits = "SELECT canonical_segment_id, plan, merged_to FROM profile_traits ORDER BY merged_to NULLS FIRST"
    sender.send(TWO_PLANS)
    project.run("--select", "sync")
    assert project.ask(traits) == [(one, "pro", None), (two, None, one)]
    sender.send([REMOVAL])
    project.run("--select", "sync")
    # The model keeps the old value where a row has none: what was removed stays, as with Segment.
    assert project.ask(traits) == [(one, "pro", None), (two, None, one)]
