"""The processes that collect events and answer requests."""

import asyncio
import gc
import os
import secrets
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from profilelake.app.directory import METRICS, WORKSPACE, identity_rules, log_limits
from profilelake.app.offline import deciding
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.metric_files import reserve_metric_files
from profilelake.ops.supervisor import die_with_parent, say_ready
from profilelake.semantics.rules import IdentityRules
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from starlette.routing import Route

    from profilelake.manage.guard import Guard
    from profilelake.manage.recording import Place
    from profilelake.state.store import State
    from profilelake.workspaces.suppressions import SuppressionRing


def http_process(settings: Settings, *, parent: int, ready: int, host: str, port: int) -> int:
    """Collect events and serve profiles on a shared port until told to stop."""
    from prometheus_client import CollectorRegistry

    from profilelake.collect.limits import CollectLimits
    from profilelake.collect.suppress import Suppression
    from profilelake.collect.tracking import Tracking
    from profilelake.eventlog.embedded import LogWriter
    from profilelake.eventlog.metrics import LogMetrics, LogSize
    from profilelake.identity.rules_now import RulesNow
    from profilelake.manage.app import Management
    from profilelake.manage.external_ids import is_deletion
    from profilelake.manage.guard import Guard
    from profilelake.manage.limits_hit import REPORT
    from profilelake.ops import http
    from profilelake.ops.forward import Forward
    from profilelake.serve.latest_state import LatestState
    from profilelake.serve.profile_api import ProfileApi, request_ids
    from profilelake.workspaces.identifier_key import identifier_key
    from profilelake.workspaces.keyring import KeyRing
    from profilelake.workspaces.suppressions import SuppressionRing

    die_with_parent(parent)
    logs.configure("http")
    layout = Layout(settings.directory)
    reserve_metric_files(layout.run / METRICS, os.getpid())
    keys = KeyRing(layout.control)
    keys.poll()
    suppressed = SuppressionRing(layout.control)
    suppressed.refresh()
    registry = CollectorRegistry()
    state = LatestState(layout.state)
    rules = RulesNow(state, identity_rules())

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        writer = LogWriter(
            layout.log,
            region=settings.region,
            clock=wall,
            limits=log_limits(settings),
            on_durable=LogMetrics(registry).flushed,
        )
        profiles = ProfileApi(
            state,
            layout.recent,
            lambda workspace: identifier_key(layout.secrets, workspace),
            keys,
            rules=rules,
            registry=registry,
            request_id=request_ids(secrets.token_bytes(8)),
            now=wall,
            requests_per_second=settings.http.profile_requests_per_second or None,
            processes=settings.http.processes,
            past=Forward(layout.query_socket),
        )
        guard = Guard(keys, WORKSPACE, wall)
        management = Management(
            workspace=WORKSPACE,
            guard=guard,
            state=state,
            log_directory=layout.log,
            flush_request=layout.flush_request,
            metrics_directory=layout.run / METRICS,
            limits_report=layout.run / REPORT,
            keys=keys,
            trouble=lambda: writer.trouble,
            clock=wall,
            collectors=[LogSize(layout.log, settings.log.bytes_max)],
        ).application(
            management_routes(
                layout,
                guard,
                state,
                suppressed,
                rules,
                writer.place,
                profiles.rate.wait_of_token,
                stop.is_set,
            )
        )

        async def otherwise(scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
            path = scope["path"]
            if path.startswith(("/v1/spaces/", "/v1/namespaces/")) and not is_deletion(path):
                await profiles(scope, receive, send)
            else:
                await management(scope, receive, send)

        bundles = settings.http.browser_bundles
        limits = CollectLimits(
            trusted_proxies=settings.http.proxies(),
            processes=settings.http.processes,
            public_url=settings.http.public_url,
            browser_bundles=settings.directory / bundles if bundles else None,
            unknown_key="accept_and_drop" if settings.http.unknown_key == "accept_and_drop" else "reject",
        )
        suppression = Suppression(
            suppressed, rules, lambda workspace: identifier_key(layout.secrets, workspace), limits
        )
        tracking = Tracking(writer, keys, limits, registry, otherwise, suppression=suppression)
        try:
            await http.serve_app(
                tracking,
                http.bind(host, port),
                http.HttpLimits(),
                stop=stop,
                on_ready=lambda: freeze_and_say_ready(ready),
            )
        finally:
            await asyncio.to_thread(writer.close)

    http.run(main())
    return 0


def freeze_and_say_ready(ready: int) -> None:
    """Say that requests are answered, and look no more for cycles in what lives as long as the process.

    A full look takes tens of milliseconds, for which whatever request comes next would wait.
    """
    gc.collect()
    gc.freeze()
    say_ready(ready)


def management_routes(
    layout: Layout,
    guard: "Guard",
    state: "Callable[[], State]",
    suppressed: "SuppressionRing",
    rules: Callable[[str], IdentityRules],
    place: "Place",
    wait: Callable[[str, int], int],
    stopping: Callable[[], bool],
) -> "list[Route]":
    """Return the routes of each area of management.

    `place` makes an entry of the event log durable; `wait` counts requests of tokens with a rate;
    `stopping` tells that the process is to end.
    """
    from profilelake.manage.changes import Changes
    from profilelake.manage.computed import computed_routes
    from profilelake.manage.decisions import decision_routes
    from profilelake.manage.destinations import destination_routes
    from profilelake.manage.feed import FeedDoor
    from profilelake.manage.identity import Explaining, identity_routes, sets_in_lake
    from profilelake.manage.openapi import openapi_route
    from profilelake.manage.recording import Recording
    from profilelake.manage.schema import schema_routes
    from profilelake.manage.sources import source_routes
    from profilelake.manage.space_schema import space_schema_routes
    from profilelake.manage.sql import SqlDoor
    from profilelake.manage.suppressions import suppression_routes
    from profilelake.manage.tail import tail_routes
    from profilelake.manage.tokens import token_routes
    from profilelake.ops.forward import Forward
    from profilelake.workspaces.identifier_key import identifier_key

    changes = Changes(layout.control, WORKSPACE, wall)
    recording = Recording(WORKSPACE, state, place, layout.log, layout.flush_request)
    return [
        *source_routes(guard, changes),
        *token_routes(guard, changes),
        *suppression_routes(
            guard, changes, lambda: identifier_key(layout.secrets, WORKSPACE), rules, suppressed
        ),
        *tail_routes(guard, layout.tail(WORKSPACE), WORKSPACE, state),
        *decision_routes(guard, changes, deciding(layout, state), recording, layout.directory),
        *computed_routes(guard, changes, recording, layout.directory, layout.run / "previews", wall),
        *identity_routes(
            guard,
            Explaining(
                workspace=WORKSPACE,
                state=state,
                key=lambda: identifier_key(layout.secrets, WORKSPACE),
                rules=identity_rules(),
                recent_directory=layout.recent(WORKSPACE),
                sets_in_lake=sets_in_lake(layout.directory),
            ),
        ),
        *schema_routes(guard, layout.directory, wall),
        *space_schema_routes(guard, layout.directory),
        *SqlDoor(guard.keys, WORKSPACE, wall, Forward(layout.query_socket), wait).routes(),
        *FeedDoor(guard.keys, WORKSPACE, wall, state, wait, stopping).routes(),
        *destination_routes(guard, changes, layout.activations, layout.destination_secrets, state),
        openapi_route(),
    ]
