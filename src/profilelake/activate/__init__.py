"""Changes of traits and audiences told to other systems: feeds, webhooks, Segment-shaped events.

At least once, in order for each profile, with a key by which a receiver knows what it has seen.
"""
