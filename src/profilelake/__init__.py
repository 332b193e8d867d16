"""profilelake: an open-source Profiles Data Lake.

`profilelake.Client` and `profilelake.AsyncClient` read one from Python; see `profilelake.client`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profilelake.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The processes of a server import this module too, and none of them needs an HTTP client.
    if name in ("AsyncClient", "Client"):
        return getattr(importlib.import_module("profilelake.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
