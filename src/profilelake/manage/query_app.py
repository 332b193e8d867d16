"""The routes of the process that reads the lake. Who asks was checked before: see `ops.forward`."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from profilelake.manage.app import HANDLERS


def query_application(routes: Sequence[BaseRoute]) -> Starlette:
    """Return the ASGI application. Handlers may raise the errors of `profilelake.errors`."""
    application = Starlette(routes=[Route("/livez", _live), *routes], exception_handlers=HANDLERS)
    application.router.redirect_slashes = False
    return application


async def _live(_request: Request) -> Response:
    return Response("ok\n", media_type="text/plain")
