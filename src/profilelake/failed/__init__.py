"""Failed events as a product: find them, put them right, send them again.

Reads the committed table and appends to the event log, nothing else: a replayed event goes the way of every other.
"""
