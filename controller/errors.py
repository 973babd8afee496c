"""Errors of the controller that must be known where its own packages are not installed."""


class DatabaseError(Exception):
    """The database cannot be used; the message says why and what to do."""
