"""The one kind of error that a person is meant to read."""


class UserError(Exception):
    """Something the person can mend: one line that says what was wrong, where, and what to do.

    Command-line programs print it without a traceback and exit with 2.
    """
