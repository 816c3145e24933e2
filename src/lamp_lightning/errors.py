"""Errors meant for the person at the keyboard."""

from __future__ import annotations


class UserError(RuntimeError):
    """Something the user gave cannot be used.

    The message names the file or setting, what was found there and what to do. Commands print it without
    a traceback and exit with status 1.
    """
