"""Errors that a user can act on: one sentence that says what, where, why and how to fix it."""

from __future__ import annotations


class UserError(Exception):
    """The input is wrong (exit code 2)."""

    exit_code = 2


class NoFramework(UserError):
    """No framework could be run (exit code 3)."""

    exit_code = 3
