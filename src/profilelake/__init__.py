"""profilelake: an open-source Profiles Data Lake."""

__version__ = "0.1.0"
