"""Reading: the Segment-compatible Profile API over the online state. Nothing here ever writes."""
