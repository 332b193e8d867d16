"""Files of events to records of the event log: read, cut, packed, and remembered, never parsed.

What the lines mean is decided by landing, as for everything else that comes in.
"""
