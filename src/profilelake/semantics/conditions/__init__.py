"""The language of conditions: what a computed trait is worth and who is in an audience, as one typed tree.

Values in, values out: nothing here knows tables, time or any engine. Every faster form is held to it.
"""
