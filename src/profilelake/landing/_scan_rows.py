"""What the compiled scan reads and fills: arrays, and the meaning of their columns."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Longs: TypeAlias = npt.NDArray[np.int64]

DOCUMENT: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "record", "index", "start", "stop", "type", "default_type", "events", "received_at", "sent_at",
            "browser", "hint", "address_start", "address_stop",
        )
    ]
)  # fmt: skip
"""One JSON document: the body of log record `record`, or line `index` of it. `start`, `stop`: where it is
in the source. `type`: number of the event type that the path named, `BATCH`, `LINE`, or one
that the reference must read; `default_type`: for a line that names none, or -1. `events`: as counted on
arrival. `sent_at`: time of the header. `address_start`, `address_stop`: the peer's address as JSON in the
text; `browser`: it always counts. `hint`: the previousId of its alias calls is an anonymous id."""
BATCH, LINE, UNREADABLE, UNREADABLE_LINE = -1, -2, -3, -4

TEXT_COLUMNS: Final = (
    "message_id", "event", "name", "user_id", "anonymous_id", "group_id", "previous_id", "type",
    "library", "consent", "context", "properties", "traits", "integrations",
)  # fmt: skip
"""Columns of an event that are slices of the text: column c of a row is `[2 * c]` to `[2 * c + 1]`, or -1."""
MESSAGE_ID, EVENT, NAME, USER_ID, ANONYMOUS_ID, GROUP_ID, PREVIOUS_ID = range(7)
TYPE, LIBRARY, CONSENT, CONTEXT, PROPERTIES, TRAITS, INTEGRATIONS = range(7, 14)
ROW_DOCUMENT, ROW_INDEX, TIMESTAMP, ORIGINAL, SENT = range(28, 33)
ROW_WIDTH: Final = 33
"""Numbers follow the slices: which document, which event of it, three times."""

IDENTIFIER: Final = np.dtype(
    [(name, np.int64) for name in ("row", "collection", "type_start", "type_stop", "start", "stop")]
)
"""One identifier of an accepted event: its row, 0 for users or 1 for accounts, slices of type and value."""

FAILURE: Final = np.dtype(
    [(name, np.int64) for name in ("document", "index", "status", "id_start", "id_stop", "start", "stop")]
)
"""One refused event: the slice of its message id in the text, and of all of it in the source."""

STATUSES: Final = (
    "", "not_an_object", "event_too_large", "unknown_type", "missing_event_name", "missing_group_id",
    "missing_previous_id", "no_identifier",
)  # fmt: skip
"""Verdicts the scan reaches itself, as reason codes; the place in the list is the status."""
ACCEPTED, NOT_AN_OBJECT, TOO_LARGE, UNKNOWN_TYPE, NO_EVENT, NO_GROUP, NO_PREVIOUS, NO_IDENTIFIER = range(8)
UNUSUAL: Final = -1

ROWS, IDENTIFIERS, FAILURES, TEXT, PATCH = range(5)
"""Places in the cursor: how far each array and the two regions of the text are filled."""
CURSORS: Final = 5
