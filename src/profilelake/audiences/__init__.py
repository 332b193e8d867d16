"""Who is in which audience and what computed traits are worth: kept up to date, published, told.

A value is a function of the facts and of the time; what was announced of it is a journal.
"""
