"""Every reason an event can fail for: what happened, and what to do. The one list of all codes."""

from typing import Final

from profilelake.semantics.events import REASONS as OF_THE_EVENT

LOG_DAMAGED: Final = "log_damaged"
"""The event was accepted, and its bytes in the event log are damaged."""
PROCESSING_ERROR: Final = "processing_error"
"""A fault of ours met the record of this event; it is kept whole and can be replayed."""
MESSAGE_ID_CONFLICT: Final = "message_id_conflict"
"""Another event with this message id and other content is accepted."""

REASONS: Final[dict[str, str]] = OF_THE_EVENT | {
    LOG_DAMAGED: "the event was accepted, and its bytes in the event log can no longer be read",
    PROCESSING_ERROR: "a fault of ours met the request that this event came in; nothing is wrong with the event",
    MESSAGE_ID_CONFLICT: "another event with this messageId and other content is accepted",
}
"""Reason code -> what happened."""

REMEDIES: Final[dict[str, str]] = {
    "undecodable_record": "find what cannot be read in `raw`, and replay with `--edit`, an event for each row",
    "undecodable_line": "put the line right and import the file again, or replay with `--edit`",
    "not_an_object": "replay with `--edit` and write the event that was meant",
    "nested_too_deeply": "send the deep part as text, or replay with `--edit` and without it",
    "event_too_large": "replay without what nobody needs: `--unset properties.blob`",
    "unknown_type": "replay with the type that was meant: `--set 'type=\"track\"'`",
    "invalid_field": "the detail names the field: replay with `--set`, `--unset` or `--rename` of it",
    "missing_event_name": "replay with a name: `--set 'event=\"Order Completed\"'`, or `--rename name=event`",
    "missing_group_id": "replay with the group: `--rename traits.groupId=groupId`, or `--set`",
    "missing_previous_id": "replay with the former id: `--rename from=previousId`, or `--set`",
    "no_identifier": "replay with an identifier: `--rename user_id=userId`, or `--set 'anonymousId=\"…\"'`",
    LOG_DAMAGED: "look at the disk; ask the source to send again what it still has, or restore the log",
    PROCESSING_ERROR: "upgrade, then replay as it is",
    MESSAGE_ID_CONFLICT: "see whether both happened; if so, replay with `--new-message-id`",
}
"""Reason code -> what whoever reads it can do."""


def what_happened(code: str) -> str:
    """Return what a code means; of a code from a newer program, that it is one."""
    return REASONS.get(code, "a newer program decided this")
