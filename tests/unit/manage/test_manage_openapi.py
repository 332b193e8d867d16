"""The OpenAPI document says what is served, all of it and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from profilelake.app.directory import WORKSPACE
from profilelake.app.http_process import management_routes
from profilelake.collect import tracking
from profilelake.collect.limits import CollectLimits
from profilelake.errors import Unavailable
from profilelake.eventlog import Entry
from profilelake.manage.app import Management
from profilelake.manage.guard import Guard
from profilelake.manage.openapi import document
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import segment_defaults
from profilelake.serve import profile_api
from profilelake.settings import Layout
from profilelake.state.store import State
from profilelake.workspaces.keyring import KeyRing
from profilelake.workspaces.suppressions import SuppressionRing

METHODS = {"get", "post", "patch", "put", "delete"}


class Log:
    """A log that nothing is written to here."""

    trouble = None

    def append(self, _entry: object) -> Any:
        raise AssertionError("nothing is sent")


async def place(_entry: Entry) -> Position:
    raise AssertionError("nothing is decided")


def no_state() -> State:
    raise Unavailable("there is none")


@pytest.fixture(scope="module")
def documented() -> dict[str, set[str]]:
    """Return the methods of each path in the document."""
    return {path: METHODS & item.keys() for path, item in document()["paths"].items()}


def test_the_document_is_openapi() -> None:
    whole = document()
    OpenAPIV31SpecValidator(whole).validate()
    names = [
        operation["operationId"]
        for path in whole["paths"].values()
        for method, operation in path.items()
        if method in METHODS
    ]
    assert len(names) == len(set(names))


def test_every_reference_is_used() -> None:
    whole = document()
    text = str(whole)
    for kind in ("schemas", "responses", "parameters"):
        unused = [name for name in whole["components"][kind] if f"#/components/{kind}/{name}'" not in text]
        assert unused == []


def test_the_document_and_the_server_agree(documented: dict[str, set[str]], tmp_path: Path) -> None:
    assert documented == of_management(tmp_path) | of_tracking(tmp_path) | of_profiles()


def of_management(directory: Path) -> dict[str, set[str]]:
    layout = Layout(directory)
    keys = KeyRing(layout.control)
    guard = Guard(keys, WORKSPACE, lambda: 0)
    routes = management_routes(
        layout,
        guard,
        no_state,
        SuppressionRing(layout.control),
        lambda _: segment_defaults(),
        place,
        lambda *_: 0,
        lambda: False,
    )
    application = Management(
        workspace=WORKSPACE,
        guard=guard,
        state=no_state,
        log_directory=layout.log,
        flush_request=layout.flush_request,
        metrics_directory=layout.run,
        limits_report=layout.run,
        keys=keys,
        trouble=lambda: None,
        clock=lambda: 0,
    ).application(routes)
    found: dict[str, set[str]] = {}
    for route in application.routes:
        assert isinstance(route, Route)
        assert route.path_format not in found
        found[route.path_format] = {method.lower() for method in route.methods or ()} - {"head"}
    return found


def of_tracking(directory: Path) -> dict[str, set[str]]:
    made = tracking.Tracking(Log(), KeyRing(directory / "none"), CollectLimits(), CollectorRegistry())
    found = {path.removesuffix("/"): {"post"} for path in tracking._ROUTES}
    below = {
        "/v1/projects/": "/v1/projects/{writeKey}/settings",
        "/analytics.js/v1/": "/analytics.js/v1/{writeKey}/analytics.min.js",
        "/analytics-next/bundles/": "/analytics-next/bundles/{file}",
        "/rudder/": "/rudder/{file}",
    }
    assert below.keys() == set(tracking._BEGINNINGS)
    for path, endpoint in made._endpoints.items():
        methods = set(endpoint.allowed.decode().lower().split(", ")) & METHODS
        found[below.get(path, path)] = methods
    return found


def of_profiles() -> dict[str, set[str]]:
    found = {}
    for word in ("spaces", "namespaces"):
        root = f"/v1/{word}/{{space}}/collections/{{collection}}/profiles"
        found[root] = {"get"}
        found[f"{root}/lookup"] = {"post"}
        found[f"{root}/{{id}}"] = {"get"}
        found[f"{root}/{{id}}/explain/{{trait}}"] = {"get"}
        found[f"{root}/export"] = found[f"{root}/{{id}}/traits/{{trait}}/history"] = {"get"}
        found |= {f"{root}/{{id}}/{resource}": {"get"} for resource in profile_api._EXPANDED}
    return found
