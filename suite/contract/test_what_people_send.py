"""What people send, from each kind of place, to one running bot: kept where it belongs, on every engine."""

from typing import Any

import pytest
from aiogram import F, Router
from aiogram.filters import Command
from aiogram.methods import RefundStarPayment, TelegramMethod
from aiogram.types import LabeledPrice, Message, PreCheckoutQuery

from bot.agent_adapter import Author, Place, RecordId, TelegramAgentAdapter, chat, topic
from bot.runtime.app import Owner
from bot.runtime.state.record import UserRecord
from suite.bot_api import FakeTelegram
from suite.bot_api.people import person
from suite.support.runtime import MakeRuntime, Mode

GROUP, FORUM = -1_001, -1_002
SMALL, UPGRADED = -1_003, -1_000_000_001_003
TOPIC: dict[str, Any] = {"message_thread_id": 7, "is_topic_message": True}
ANN, BOB, OWNER = 1, 2, 5

WAYS = [pytest.param("polling", id="asking"), pytest.param("webhook", id="told")]
"""Named otherwise than those of the fixture `mode`: of these, the template's own suite leaves out one by its
name on most engines."""

CONTENT = bytes(range(256)) * 100


class Host(TelegramAgentAdapter):
    """Counts what was said in a record, and reads files. Two groups and their topics have their own."""

    accepts = frozenset({"text", "photo", "voice", "business"})

    def wants(self, update: Any) -> bool:
        return True

    def record_of(self, place: Place) -> RecordId | None:
        if place.group not in (GROUP, FORUM):
            return super().record_of(place)
        return chat(place.group) if place.topic is None else topic(place.group, place.topic)

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        sizes = [len(await file.read()) for file in self.turn.attachments]
        state["count"] = state.get("count", 0) + 1
        return " ".join(map(str, [*sizes, message, f"#{state['count']}"]))


def shop() -> Router:
    """Sells tea."""
    router = Router()

    @router.message(Command("buy"))
    async def buy(message: Message) -> TelegramMethod[Any]:
        price = [LabeledPrice(label="Tea", amount=5)]
        return message.answer_invoice(
            title="Tea", description=".", payload="tea", currency="XTR", prices=price
        )

    @router.pre_checkout_query()
    async def check(query: PreCheckoutQuery) -> TelegramMethod[Any]:
        return query.answer(ok=True)

    @router.message(F.successful_payment)
    async def paid(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
        assert message.successful_payment
        orders = agent.turn.state.setdefault("orders", [])
        orders.append(message.successful_payment.telegram_payment_charge_id)
        return message.answer(f"order {len(orders)}")

    @router.message(Command("refund"))
    async def refund(message: Message, agent: TelegramAgentAdapter) -> list[TelegramMethod[Any]]:
        charge_id = agent.turn.state["orders"].pop()
        return [
            RefundStarPayment(user_id=agent.turn.place.person or 0, telegram_payment_charge_id=charge_id),
            message.answer("refunded"),
        ]

    return router


def said(record: UserRecord) -> dict[str, list[str]]:
    """What people wrote, by conversation."""
    conversations = {"": record.history} | record.others
    return {
        name: [each.text for each in messages if each.role == "user"]
        for name, messages in conversations.items()
    }


async def buy_tea(telegram: FakeTelegram) -> str:
    """Ann buys, and is asked and believed; the charge's id."""
    telegram.message("/buy", user_id=ANN)
    await telegram.settled()
    invoice = next(each for each in telegram.sent if each.method == "sendInvoice")
    purchase = telegram.payments.buy(invoice, user_id=ANN)
    await telegram.wait_for(lambda: purchase.state == "paid")
    await telegram.settled()
    return purchase.charge_id


@pytest.mark.clause("places.everywhere")
@pytest.mark.parametrize("way", WAYS)
async def test_it_is_kept_where_it_belongs(
    make_runtime: MakeRuntime, telegram: FakeTelegram, way: Mode
) -> None:
    bot = make_runtime(way, agent_class=Host)
    bot.owner = Owner(agent=Host, before=[shop()])
    async with bot:
        await telegram.wait_for(lambda: telegram.allowed_updates)
        connection = telegram.connect_business(OWNER)
        telegram.message("hi", user_id=ANN)
        telegram.attachment("photo", CONTENT, user_id=ANN, caption="look")
        telegram.attachment("voice", CONTENT[:-1], user_id=ANN)
        business = {"from": person(ANN), "text": "open?", "business_connection_id": connection}
        telegram.push({"business_message": telegram.new_message(ANN, business)})
        for number in range(4):
            for who in (ANN, BOB):
                telegram.message(f"{who}-{number}", user_id=who, chat_id=GROUP)
        telegram.message("on topic", user_id=ANN, chat_id=FORUM, **TOPIC)
        telegram.attachment("photo", CONTENT, user_id=BOB, chat_id=FORUM, **TOPIC)
        telegram.message("off topic", user_id=BOB, chat_id=FORUM)
        await telegram.settled()
        for update_id in list(telegram.updates):
            telegram.repeat(update_id)
        await telegram.settled()
        charge = await buy_tea(telegram)
        telegram.repeat(max(telegram.updates))
        await telegram.settled()

        ann = await bot.store.load(str(ANN), None)
        private = ["hi", "[photo] look", "[voice]"]
        assert said(ann) == {"": private, f"{ANN}::{connection}": ["open?"]}
        assert ann.state == {"count": 4, "orders": [charge]}
        assert (await bot.store.load(str(BOB), None)).is_empty

        group = await bot.store.load(chat(GROUP), None)
        in_order = [f"{who}-{number}" for number in range(4) for who in (ANN, BOB)]
        assert said(group) == {"": in_order}
        authors = [each.author for each in group.history if each.role == "user"]
        assert authors == [Author(int(each[0]), f"User {each[0]}") for each in in_order]
        assert said(await bot.store.load(topic(FORUM, 7), None)) == {"": ["on topic", "[photo]"]}
        assert said(await bot.store.load(chat(FORUM), None)) == {"": ["off topic"]}

        telegram.message("/refund", user_id=ANN)
        await telegram.settled()
        assert [each.state for each in telegram.payments.purchases] == ["refunded"]
        assert (await bot.store.load(str(ANN))).state == {"count": 4, "orders": []}
    await replies_are_right(telegram, connection)


async def replies_are_right(telegram: FakeTelegram, connection: str) -> None:
    """Each once, in its place, in order there."""
    texts = [each for each in telegram.sent if each.method == "sendMessage"]
    by_business = [each.text for each in texts if each.params.get("business_connection_id") == connection]
    assert len(by_business) == 1
    assert by_business[0].startswith("open? #")
    private = [text for text in telegram.texts(ANN) if not text.startswith("open?")]
    size = len(CONTENT)
    assert [text.partition(" #")[0] for text in private] == [
        "hi", f"{size} look", f"{size - 1} ", "order 1", "refunded"
    ]  # fmt: skip
    in_order = [f"{who}-{number}" for number in range(4) for who in (ANN, BOB)]
    assert telegram.texts(GROUP) == [f"{text} #{number}" for number, text in enumerate(in_order, 1)]
    on_topic = [each.text for each in texts if each.params.get("message_thread_id") == "7"]
    assert on_topic == ["on topic #1", f"{size}  #2"]
    assert sorted(telegram.texts(FORUM)) == sorted([*on_topic, "off topic #1"])


@pytest.mark.clause("record.shared")
async def test_a_conversation_follows_its_group(make_runtime: MakeRuntime, telegram: FakeTelegram) -> None:
    """A person's own, when they next write in what the group has become: once, though all comes again."""
    telegram.group(SMALL)
    async with make_runtime("polling", agent_class=Host) as bot:
        telegram.message("in private", user_id=ANN)
        telegram.message("in the group", user_id=ANN, chat_id=SMALL)
        await telegram.settled()
        telegram.migrate(SMALL, UPGRADED, user_id=BOB)
        for text in ("still there?", "yes"):
            telegram.message(text, user_id=ANN, chat_id=UPGRADED)
        await telegram.settled()
        for update_id in list(telegram.updates):
            telegram.repeat(update_id)
        await telegram.settled()
        ann = await bot.store.load(str(ANN), None)
        followed = ["in the group", "still there?", "yes"]
        assert said(ann) == {"": ["in private"], f"{UPGRADED}::": followed}
        there = await bot.store.load(str(ANN), f"{UPGRADED}::")
        assert [each.text for each in there.history if each.role == "user"] == followed
