"""The words of the bot that are not the agent's. An owner's own stand in `bot/handlers.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MENU = {
    "start": "Say hello",
    "help": "What I can do",
    "reset": "Start afresh: clear state and conversation",
    "export": "Get a copy of what I keep about you",
    "forget": "Erase everything I keep about you",
}


STOP_MENU = {"en": {"stop": "Stop what I am saying"}}
"""One more command, of agents whose answers come in pieces: per language, what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What the bot says in one language.

    Attributes:
        hello: the answer to `/start`.
        reset: the answer to `/reset`.
        export: the caption of the file that `/export` sends.
        forget: the question that `/forget` asks, above its two buttons.
        forget_yes: the button that erases.
        forget_no: the button that does not.
        forgotten: the answer to the first button.
        not_forgotten: the answer to the second one.
        not_your_button: the answer to somebody else who presses it, or a button of a question to somebody.
        closed: the answer to a button of a question that was answered, or taken back.
        too_late: the answer to one that comes after its time.
        only_in_private: the answer to `/export` and `/forget` in a group.
        only_admins: the answer to `/reset` and `/forget` where all are concerned, but to administrators.
        admins_unknown: the same when Telegram does not say who is one.
        forgotten_here: the answer to `/forget` of an administrator, in a group with a record of its own.
        not_allowed: the answer, once, to somebody whom `ALLOWED_USERS` does not name.
        only_text: the answer to a photo or whatever else neither the agent nor a router takes.
        flood: the answer to too many messages; `{limit}`, `{period}` and `{left}` are filled in, in seconds.
        inbox_full: the answer, once, when so much waits already that a message is dropped.
        sorry: an update failed.
        sorry_too_large: the record would exceed `STATE_MAX_BYTES`.
        sorry_reply_too_large: the reply does not fit, or a file of it exceeds `REPLY_FILE_BYTES`.
        sorry_file_too_large: the agent did not catch that a file has more bytes than `ATTACHMENT_BYTES`.
        sorry_corrupt: the record cannot be read.
        sorry_undelivered: a reply could not be sent, in place of it.
        stop: the button under an answer that is still growing.
        menu: what each command does: Telegram's menu and `/help`, in this order.
    """

    hello: str = "Hello! Write to me. I remember what you tell me; /help says what else I can do."
    reset: str = "Done. We start afresh."
    export: str = "Everything I keep about you."
    forget: str = "Shall I erase everything I keep about you? This cannot be undone."
    forget_yes: str = "Erase everything"
    forget_no: str = "Keep it"
    forgotten: str = "Done. I have forgotten everything about you."
    not_forgotten: str = "Nothing was erased."
    not_your_button: str = "This button is not for you."
    closed: str = "This question is closed: it was answered, or taken back."
    too_late: str = "It is too late to answer this."
    only_in_private: str = "That is between you and me: please send it to me in a private chat."
    only_admins: str = "That concerns everybody here: only administrators can do it."
    admins_unknown: str = "I cannot find out who is an administrator here. Please try again in a minute."
    forgotten_here: str = "Done. I have forgotten everything about this group."
    not_allowed: str = "Sorry, I am not open to everybody."
    only_text: str = "I can read text only, so far."
    flood: str = (
        "That is more than I can take: {limit} messages in {period} seconds. "
        "I do not read on for {left} seconds; please send it again then."
    )
    inbox_full: str = "That is more than I can keep up with: please wait until I have answered."
    sorry: str = "Sorry, something went wrong with this message. Please try another one."
    sorry_too_large: str = (
        "Sorry, I cannot remember any more. "
        "Send /reset to clear what I know, or /export to keep a copy first."
    )
    sorry_reply_too_large: str = "Sorry, what I wanted to send you is too large."
    sorry_file_too_large: str = "Sorry, this file is too large for me."
    sorry_corrupt: str = "Sorry, I cannot read what I know about you. The person who runs me has been told."
    sorry_undelivered: str = "Sorry, I have an answer for you that I could not send."
    stop: str = "Stop"
    menu: Mapping[str, str] = field(default_factory=lambda: dict(MENU))


class TextTable:
    """The texts of each language; the first one is for everybody whose language is not among them."""

    def __init__(
        self, texts: Mapping[str, Texts] | None = None, menus: Iterable[Mapping[str, Mapping[str, str]]] = ()
    ) -> None:
        """Make a table.

        Args:
            texts: per IETF language tag, such as `de` or `pt-br`; English when there are none.
            menus: further commands to list, such as those of a flow: per language, per command, what it does.
        """
        self.texts = dict(texts or {"en": Texts()})
        self._menus = list(menus)

    def of(self, language: str | None) -> Texts:
        """The texts for a user.

        Args:
            language: what Telegram says of the user, such as `de-AT`; `None` when it does not.
        """
        return self.texts[self._chosen(language)]

    def menu(self, language: str | None, *, is_private: bool) -> dict[str, str]:
        """What each command that works in a chat does.

        Args:
            language: as above.
            is_private: whether nobody but the user reads along.
        """
        chosen = self._chosen(language)
        menu = dict(self.texts[chosen].menu)
        last = [menu.pop(name, None) for name in ("reset", *ONLY_IN_PRIVATE)]
        for each in self._menus:
            menu |= each.get(chosen) or next(iter(each.values()), {})
        for name, text in zip(("reset", *ONLY_IN_PRIVATE), last, strict=True):
            if text and (is_private or name not in ONLY_IN_PRIVATE):
                menu[name] = text
        return menu

    def _chosen(self, language: str | None) -> str:
        tag = (language or "").lower()
        for known in (tag, tag.partition("-")[0]):
            if known in self.texts:
                return known
        return next(iter(self.texts))


ONLY_IN_PRIVATE = ("export", "forget")
"""Commands about personal matters."""
