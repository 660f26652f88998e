"""What can go wrong: for the person who runs the bot, and with users' records."""


class OperatorError(Exception):
    """Something the operator can fix: its text is one line that says what is wrong and what to do.

    The command line prints the text without a traceback and exits with 1.
    """


class StateError(Exception):
    """Something is wrong with a user's record. Carries the user's id, never what is kept."""

    def __init__(self, reason: str, user_id: str | None = None) -> None:
        """Make an error.

        Args:
            reason: what happened, without any content.
            user_id: whose record; `None` when it concerns the backend as a whole.
        """
        super().__init__(f"user {user_id}: {reason}" if user_id else reason)
        self.user_id = user_id


def unusable(store: str, error: StateError) -> OperatorError:
    """What the operator is told when a store cannot be used.

    Args:
        store: its name.
        error: why.
    """
    advice = ""
    if isinstance(error, StateUnavailable) and "`" not in str(error):  # else it names a command itself
        advice = f"; {error.advice}"
    elif isinstance(error, StateCorrupt):
        advice = f"; `bot state show --raw {error.user_id}` shows what is stored"
    return OperatorError(f"the {store} store cannot be used: {error}{advice}")


class StateUnavailable(StateError):
    """The backend did not answer. Whether a commit was applied is then unknown."""

    advice = "is it running, is its address right? `bot doctor` shows more"
    """What to look at."""


class StateConflict(StateError):
    """Somebody else committed first. Nothing was written."""


class StateTooLarge(StateError):
    """The record would exceed `STATE_MAX_BYTES`. Nothing was written."""


class ReplyTooLarge(StateTooLarge):
    """A reply does not fit into `STATE_MAX_BYTES`, or a file of it into `REPLY_FILE_BYTES`.

    Nothing was written.
    """


class StateCorrupt(StateError):
    """What is stored is not a record of ours. It is left as it is."""


class StateForgotten(StateError):
    """The user was forgotten after the caller began. Nothing was written."""


class StateForeign(StateError):
    """The store belongs to another bot."""


class LeaseLost(Exception):
    """Another process has taken over what this one was at: it commits nothing, and shows no more."""


class WrongReply(TypeError):
    """The owner's code returned something that is no reply. The text names the method, and has no content."""


class TurnGivenUp(Exception):
    """The caller's turn took longer than `AGENT_TIMEOUT`: nothing that it still does counts."""


class JobStopped(Exception):
    """A job cannot be run. It is kept, with this text, to be looked at. The text has no content."""


class AttachmentError(Exception):
    """A file that somebody sent cannot be read. The text says why, and nothing of the file."""


class AttachmentTooLarge(AttachmentError):
    """It has more bytes than `ATTACHMENT_BYTES`, or than Telegram hands out."""


class StateValueError(ValueError):
    """A value cannot be kept. The text names where it stands and never shows the value.

    Attributes:
        outline: the text without the keys, which may be what people wrote.
    """

    def __init__(self, where: str, problem: str) -> None:
        """Make an error.

        Args:
            where: the place, such as `state['cart']`.
            problem: what is wrong there, without any content.
        """
        super().__init__(f"{where} {problem}")
        part, keys, _ = where.partition("[")
        self.outline = f"{part}{'[…]' if keys else ''} {problem}"
