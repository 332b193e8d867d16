"""The tracking API: from the request of an SDK to a durable entry in the event log, and nothing more.

A request is read, authenticated, checked as far as its answer needs it, appended, and answered once
the log has made it durable. What the events mean, and whether each is a good one, landing decides.
"""
