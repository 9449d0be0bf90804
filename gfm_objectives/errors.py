"""InputError and InputWarning: the user's mistake, told in one line that names the file or key and the remedy."""

from __future__ import annotations


class InputError(ValueError):
    """Raised for bad configs, files and folders. The command line prints its text alone and exits with 2."""


class InputWarning(UserWarning):
    """What was done about something odd in the user's files, with counts. The command line prints its text alone."""
