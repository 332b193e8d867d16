"""All tables of a workspace: what its namespaces hold, what is tended, verified, and documented.

A stage that gains a table names it in its own `TABLES`; a package that gains tables is added here.
"""

from typing import Final

from profilelake.audiences.tables import TABLES as AUDIENCE_TABLES
from profilelake.identity.sync_tables import TABLES as SYNC_TABLES
from profilelake.identity.tables import TABLES as IDENTITY_TABLES
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import TABLES as LANDING_TABLES
from profilelake.profiles.journal import TRAIT_UPDATES
from profilelake.profiles.tables import TABLES as PROFILE_TABLES
from profilelake.shapes.tables import SCHEMA

TABLES: Final[tuple[TableDef, ...]] = (
    *LANDING_TABLES,
    *IDENTITY_TABLES,
    *PROFILE_TABLES,
    TRAIT_UPDATES,
    SCHEMA,
    *SYNC_TABLES,
    *AUDIENCE_TABLES,
)
