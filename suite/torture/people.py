"""The people who write to the bot, faster or slower than it answers."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from suite.bot_api import FakeTelegram
from suite.bot_api.call import Json
from suite.torture.ledger import Ledger, Place
from suite.torture.names import LAST_PIECE, SHARED

USERS = 10
PAID = 0.1
"""The part of what is said in private that comes as a payment instead: it is to be booked once."""
ALBUMS = 0.03
"""The part of messages that are the caption of an album."""
REMINDED = 0.05
"""The part of messages that ask to be reminded, within `LATEST` seconds."""
LATEST = 3.0
MESSAGES_A_SECOND = 80


class People:
    """Each writes in private, in a group and, where that is shared, in groups with all others.

    Telegram keeps the order within each, not between them.

    Attributes:
        updates: what they caused.
        remind: whether some ask to be reminded.
        groups: whether they write in groups, too.
    """

    def __init__(
        self,
        telegram: FakeTelegram,
        ledger: Ledger,
        chance: Random,
        most_waiting: int,
        *,
        pay: bool,
        share: bool,
    ) -> None:
        self.updates: list[int] = []
        self._telegram = telegram
        self._ledger = ledger
        self._chance = chance
        self._most_waiting = most_waiting
        self._pay = pay
        self.remind = False
        self.groups = True
        self._written = dict.fromkeys(range(1, USERS + 1), 0)
        self._shared = dict.fromkeys(SHARED if share else (), 0)

    async def write(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(self._chance.expovariate(MESSAGES_A_SECOND))
            if self.waiting < self._most_waiting:
                self.message(seconds=self._chance.uniform(0, 0.02))

    @property
    def waiting(self) -> int:
        """How many messages are not dealt with."""
        return len(self.updates) - len(self._telegram.acknowledged)

    def message(self, seconds: float) -> None:
        """Somebody writes what the agent has to think about for so long."""
        user_id = self._chance.choice(list(self._written))
        groups = [-1_000 - user_id, *self._shared] if self.groups else []
        self._message(user_id, self._chance.choice([user_id, *groups]), seconds)

    def everyone(self) -> None:
        """Everybody writes in private."""
        for user_id in self._written:
            self._message(user_id, user_id, seconds=0.001)

    def message_everywhere(self, user_id: int, chats: int) -> None:
        """One person writes in so many groups."""
        for number in range(chats):
            self._message(user_id, -1_000_000 * user_id - number, seconds=0)

    async def forget(self, user_id: int, seconds: float) -> None:
        """Somebody presses the button of `/forget`, and goes on writing, until it is known to be done."""
        pressed = self._telegram.callback(f"forget:{user_id}:1", user_id=user_id)
        self.updates.append(pressed)
        try:
            await self._telegram.wait_for(lambda: pressed in self._telegram.acknowledged, seconds)
        finally:
            self._ledger.forget(user_id, pressed, [each for each in self.updates if each > pressed])

    def stop(self) -> int:
        """Those whose answers are growing stop them, each in one of the ways there are; how many do."""
        count = 0
        for place, names in list(self._ledger.written.items()):
            chat_id, frames = place.chat_id, self._telegram.drafts
            draft = frames.shown(chat_id) if chat_id > 0 else None
            if draft and draft.can_stop and self._chance.random() < 0.5:
                self._ledger.stop([draft.draft_id >> 8])
                self.updates.append(frames.stop(chat_id))
            elif draft or (chat_id < 0 and self._chance.random() < 0.2 and place.user_id > 0):
                texts = [
                    each.get("text", "") for at, each in self._telegram.messages.items() if at[0] == chat_id
                ]
                done = {text.split()[0] for text in texts if text.endswith(LAST_PIECE)}
                self._ledger.stop(update_id for name, update_id in names.items() if name not in done)
                self.updates.append(self._telegram.message("/stop", user_id=place.user_id, chat_id=chat_id))
            else:
                continue
            count += 1
        for (chat_id, message_id), message in list(self._telegram.messages.items()):
            if "reply_markup" in message and self._chance.random() < 0.5:
                data = message["reply_markup"]["inline_keyboard"][0][0]["callback_data"]
                user_id = -1_000 - chat_id if chat_id not in self._shared else 1
                if 1 <= user_id <= USERS:
                    self._ledger.stop([int(data.rpartition(" ")[2])])
                    pressed = self._telegram.callback(
                        data, user_id=user_id, chat_id=chat_id, message=message_id
                    )
                    self.updates.append(pressed)
                    count += 1
        return count

    def _message(self, user_id: int, chat_id: int, seconds: float) -> None:
        is_shared = chat_id in self._shared
        counts, whose = (self._shared, chat_id) if is_shared else (self._written, user_id)
        counts[whose] += 1
        name = f"{'s' if is_shared else 'p' if chat_id > 0 else 'g'}{counts[whose]}"
        fields = {"reply_to_message": self._of_bot(chat_id)} if chat_id < 0 else {}
        text, delay = f"{name} {seconds:.3f}", None
        place = Place(whose, chat_id)
        if self._pay and seconds and self._chance.random() < ALBUMS:
            update_id = self._album(place, user_id, f"{user_id} {name}", caption=text, **fields)
            self._ledger.write(place, name, update_id, user_id if is_shared else None)
            return
        if self.remind and seconds and self._chance.random() < REMINDED:
            delay = self._chance.uniform(0, LATEST)
            text += f" {delay:.3f}"
        is_paid = self._pay and chat_id > 0 and self._chance.random() < PAID
        if is_paid:
            fields = {"successful_payment": _payment(f"{user_id} {name}", text)}
        update_id = self._telegram.message(
            None if is_paid else text, user_id=user_id, chat_id=chat_id, **fields
        )
        self._ledger.write(place, name, update_id, user_id if is_shared else None)
        if delay is not None:
            self._ledger.reminders[place, name] = round(delay, 3)
        self.updates.append(update_id)

    def _album(self, place: Place, user_id: int, album: str, **first: Any) -> int:
        """Somebody sends several photos, of which the first has a caption; the first one's update."""
        updates = []
        for number in range(self._chance.randint(2, 5)):
            photo = f"{album}/{number}"
            size = {"file_id": photo, "file_unique_id": photo, "width": 1, "height": 1, "file_size": 10}
            more = {"photo": [size], "media_group_id": album, **first}
            first.pop("caption", None)
            update_id = self._telegram.message(None, user_id=user_id, chat_id=place.chat_id, **more)
            self._ledger.photos[photo] = place, update_id
            updates.append(update_id)
        self.updates += updates
        return updates[0]

    def _of_bot(self, chat_id: int) -> Json:
        """A message of the bot: who replies to one in a group means the bot."""
        chat = self._telegram.chat(chat_id)
        return {"message_id": 1, "date": 1, "chat": chat, "from": self._telegram.me(), "text": "?"}

    def stranger(self, chance: Random, texts: Sequence[str]) -> int:
        """Somebody writes who is in no book: what becomes of it must not matter to the others.

        Returns:
            Who it is.
        """
        user_id = chance.randrange(10**6, 10**9)
        self.updates += [self._telegram.message(text, user_id=user_id) for text in texts]
        return user_id

    def shuffle(self, seed: int) -> None:
        """Have Telegram deliver what waits in another order."""
        self._ledger.shuffled |= set(self.updates) - self._telegram.acknowledged.keys()
        self._telegram.reorder(seed)


def _payment(charge_id: str, payload: str) -> Json:
    return {
        **{"currency": "XTR", "total_amount": 1, "invoice_payload": payload},
        **{"telegram_payment_charge_id": charge_id, "provider_payment_charge_id": ""},
    }
