"""The one error that is meant for the person who runs the bot."""


class OperatorError(Exception):
    """Something the operator can mend: its text is one line that says what is wrong and what to do.

    The command line prints the text without a traceback and exits with 1.
    """
