"""Read a lake from Python: profiles, their events, lists of them, and SQL as Arrow.

Events are sent with the SDKs that exist for that; this client reads. It needs a server, and imports
nothing of the server's own code.
"""

from profilelake.client._answers import Event, Identifier, Profile, Trait
from profilelake.client._tables import SqlResult
from profilelake.client.blocking import Client
from profilelake.client.errors import (
    InvalidRequest,
    NotAllowed,
    ProfileNotFound,
    RequestFailed,
    ServerUnavailable,
)
from profilelake.client.nonblocking import AsyncClient

__all__ = [
    "AsyncClient",
    "Client",
    "Event",
    "Identifier",
    "InvalidRequest",
    "NotAllowed",
    "Profile",
    "ProfileNotFound",
    "RequestFailed",
    "ServerUnavailable",
    "SqlResult",
    "Trait",
]
