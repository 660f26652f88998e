"""Payments: what an invoice may be, ten seconds to answer, and each charge once."""

import time

import pytest
from aiogram import Bot
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import LabeledPrice

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")

PRICES = [LabeledPrice(label="One", amount=5)]
STARS: Json = {
    "title": "Coffee",
    "description": "A cup",
    "payload": "coffee-1",
    "currency": "XTR",
    "prices": [{"label": "One", "amount": 5}],
}
MONEY = STARS | {"currency": "EUR", "provider_token": "1:TEST:2"}
MONTH = 2_592_000
TOO_OLD = "query is too old and response timeout expired or query ID is invalid"


async def send(telegram: FakeTelegram, bot: Bot, chat_id: int = 1) -> None:
    """The bot sends an invoice."""
    await bot.send_invoice(chat_id, "Coffee", "A cup", "coffee-1", "XTR", PRICES)


async def test_an_invoice_is_shaped_as_telegrams(telegram: FakeTelegram, bot: Bot) -> None:
    message = await bot.send_invoice(1, "Coffee", "A cup", "coffee-1", "XTR", PRICES, start_parameter="s")
    assert message.invoice
    assert (message.invoice.title, message.invoice.currency, message.invoice.total_amount) == (
        "Coffee",
        "XTR",
        5,
    )
    assert (message.invoice.description, message.invoice.start_parameter) == ("A cup", "s")
    assert message.reply_markup
    assert message.reply_markup.inline_keyboard[0][0].pay is True
    assert telegram.sent[0].text == "Coffee"


async def test_a_payment(telegram: FakeTelegram, bot: Bot) -> None:
    await send(telegram, bot)
    purchase = telegram.payments.buy(telegram.sent[0], user_id=1)
    assert purchase.state == "waiting"
    (update,) = await bot.get_updates()
    query = update.pre_checkout_query
    assert query
    assert (query.id, query.from_user.id, query.invoice_payload) == (purchase.query_id, 1, "coffee-1")
    assert (query.currency, query.total_amount) == ("XTR", 5)
    assert await query.answer(ok=True).as_(bot) is True
    assert str(purchase.state) == "paid"
    update = (await bot.get_updates(offset=update.update_id + 1))[0]
    assert update.message
    paid = update.message.successful_payment
    assert paid
    assert (update.message.chat.id, paid.invoice_payload, paid.total_amount) == (1, "coffee-1", 5)
    assert paid.telegram_payment_charge_id == purchase.charge_id
    assert paid.is_recurring is None
    with pytest.raises(TelegramBadRequest, match=TOO_OLD):
        await query.answer(ok=True).as_(bot)
    assert len(telegram.updates) == 2


async def test_a_refusal(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    await send(telegram, bot)
    purchase = telegram.payments.buy(telegram.sent[0], user_id=1)
    where = {"pre_checkout_query_id": purchase.query_id}
    refused(
        await call("answerPreCheckoutQuery", **where, ok=False), 400, 'parameter "error_message" is required'
    )
    assert purchase.state == "waiting"
    await bot.answer_pre_checkout_query(purchase.query_id, ok=False, error_message="Sold out")
    assert (purchase.state, purchase.error, purchase.charge_id) == ("refused", "Sold out", "")
    refused(await call("answerPreCheckoutQuery", **where, ok=True), 400, TOO_OLD)
    assert len(telegram.updates) == 1


async def test_the_bot_has_ten_seconds(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    assert telegram.payments.answer_within == 10
    await send(telegram, bot)
    before = time.monotonic()
    late, in_time = (telegram.payments.buy(telegram.sent[0], user_id=1) for _ in range(2))
    assert 10 <= in_time.until - before <= 10 + time.monotonic() - before
    late.until = time.monotonic() - 0.001
    assert late.state == "late"
    refused(await call("answerPreCheckoutQuery", pre_checkout_query_id=late.query_id, ok=True), 400, TOO_OLD)
    await bot.answer_pre_checkout_query(in_time.query_id, ok=True)
    assert (late.state, in_time.state) == ("late", "paid")
    refused(await call("answerPreCheckoutQuery", pre_checkout_query_id="1", ok=True), 400, TOO_OLD)


async def test_each_charge_is_refunded_once(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    await send(telegram, bot)
    first, second = (telegram.payments.buy(telegram.sent[0], user_id=1) for _ in range(2))
    for purchase in (first, second):
        await bot.answer_pre_checkout_query(purchase.query_id, ok=True)
    assert first.charge_id != second.charge_id
    wrong: list[tuple[Json, str]] = [
        ({"user_id": 2, "telegram_payment_charge_id": first.charge_id}, "CHARGE_NOT_FOUND"),
        ({"user_id": 1, "telegram_payment_charge_id": "x"}, "CHARGE_NOT_FOUND"),
        ({"user_id": 1}, 'parameter "telegram_payment_charge_id" is required'),
        ({"telegram_payment_charge_id": first.charge_id}, "invalid user_id specified"),
    ]
    for params, description in wrong:
        refused(await call("refundStarPayment", **params), 400, description)
    assert first.state == "paid"
    assert await bot.refund_star_payment(1, first.charge_id) is True
    assert (first.state, second.state) == ("refunded", "paid")
    message = (await bot.get_updates(offset=-1))[0].message
    assert message
    assert message.refunded_payment
    assert message.refunded_payment.telegram_payment_charge_id == first.charge_id
    with pytest.raises(TelegramBadRequest, match="Bad Request: CHARGE_ALREADY_REFUNDED"):
        await bot.refund_star_payment(1, first.charge_id)
    await bot.refund_star_payment(1, second.charge_id)


async def test_a_link_is_for_anybody_and_a_group_sees_payments(telegram: FakeTelegram, bot: Bot) -> None:
    link = await bot.create_invoice_link("Coffee", "A cup", "coffee-1", "XTR", PRICES)
    assert link.startswith("https://t.me/$")
    by_link = telegram.payments.buy(link, user_id=3)
    await send(telegram, bot, -7)
    in_group = telegram.payments.buy(telegram.sent[-1], user_id=4)
    for purchase in (by_link, in_group):
        await bot.answer_pre_checkout_query(purchase.query_id, ok=True)
    told = [u["message"] for u in telegram.updates.values() if "message" in u]
    assert [(m["chat"]["id"], m["from"]["id"]) for m in told] == [(3, 3), (-7, 4)]
    assert [p.state for p in telegram.payments.purchases] == ["paid", "paid"]
    with pytest.raises(KeyError):
        telegram.payments.buy("https://t.me/$none", user_id=3)


async def test_a_subscription_recurs(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    status, answer = await call("createInvoiceLink", **STARS, subscription_period=MONTH)
    assert status == 200
    purchase = telegram.payments.buy(answer["result"], user_id=3)
    await bot.answer_pre_checkout_query(purchase.query_id, ok=True)
    message = (await bot.get_updates(offset=-1))[0].message
    assert message
    assert message.successful_payment
    assert message.successful_payment.is_first_recurring is True
    assert (message.successful_payment.subscription_expiration_date or 0) > time.time() + MONTH - 60


async def test_money_of_a_provider_is_no_star(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    assert (await call("sendInvoice", chat_id=1, **MONEY))[0] == 200
    purchase = telegram.payments.buy(telegram.sent[0], user_id=1)
    await bot.answer_pre_checkout_query(purchase.query_id, ok=True)
    with pytest.raises(TelegramBadRequest, match="CHARGE_NOT_FOUND"):
        await bot.refund_star_payment(1, purchase.charge_id)


@pytest.mark.parametrize(
    ("params", "description"),
    [
        (STARS | {"title": ""}, 'parameter "title" is required'),
        (STARS | {"description": None}, 'parameter "description" is required'),
        (STARS | {"payload": None}, 'parameter "payload" is required'),
        (STARS | {"currency": None}, 'parameter "currency" is required'),
        (STARS | {"prices": None}, 'parameter "prices" is required'),
        (STARS | {"title": "x" * 33}, "INVOICE_TITLE_INVALID"),
        (STARS | {"description": "x" * 256}, "INVOICE_DESCRIPTION_INVALID"),
        (STARS | {"payload": "ü" * 64 + "x"}, "INVOICE_PAYLOAD_INVALID"),
        (STARS | {"currency": "euro"}, "CURRENCY_INVALID"),
        (STARS | {"prices": "x"}, "can't parse prices JSON array"),
        (STARS | {"prices": []}, "there must be at least one price"),
        (STARS | {"prices": [1]}, "LabeledPrice must be an Object"),
        (STARS | {"prices": [{"label": "", "amount": 1}]}, "LabeledPrice label must be non-empty"),
        (STARS | {"prices": [{"label": "x", "amount": 1.5}]}, 'Field "amount" must be of type Number'),
        (STARS | {"prices": [{"label": "x"}]}, 'Can\'t find field "amount"'),
        (STARS | {"prices": [{"label": "x", "amount": 0}]}, "CURRENCY_TOTAL_AMOUNT_INVALID"),
        (STARS | {"prices": STARS["prices"] * 2}, "STARS_INVOICE_INVALID"),
        (STARS | {"provider_token": "1:TEST:2"}, "PAYMENT_PROVIDER_INVALID"),
        (STARS | {"max_tip_amount": 5}, "STARS_INVOICE_INVALID"),
        (STARS | {"photo_url": "a.png"}, "WEBDOCUMENT_URL_INVALID"),
        (STARS | {"photo_width": -1}, "photo_width is not an integer"),
        (STARS | {"amount": 5}, "no parameter 'amount'"),
        (MONEY | {"provider_token": ""}, "PAYMENT_PROVIDER_INVALID"),
        (MONEY | {"provider_data": "{"}, "DATA_JSON_INVALID"),
        (MONEY | {"max_tip_amount": 5, "suggested_tip_amounts": [1, 2, 3, 4, 5]}, "TIP_AMOUNTS_INVALID"),
        (MONEY | {"max_tip_amount": 5, "suggested_tip_amounts": [2, 1]}, "TIP_AMOUNTS_INVALID"),
        (MONEY | {"max_tip_amount": 5, "suggested_tip_amounts": [0]}, "TIP_AMOUNTS_INVALID"),
        (MONEY | {"max_tip_amount": 5, "suggested_tip_amounts": [6]}, "TIP_AMOUNTS_INVALID"),
        (MONEY | {"max_tip_amount": 5, "suggested_tip_amounts": ["1"]}, "can't parse suggested tip amount"),
    ],
)
async def test_bad_invoices(telegram: FakeTelegram, call: Call, params: Json, description: str) -> None:
    refused(await call("sendInvoice", chat_id=1, **params), 400, description)
    refused(await call("createInvoiceLink", **params), 400, description)
    assert telegram.sent == []


@pytest.mark.parametrize(
    ("params", "description"),
    [
        (STARS | {"subscription_period": 60}, "SUBSCRIPTION_PERIOD_INVALID"),
        (MONEY | {"subscription_period": MONTH}, "SUBSCRIPTION_PERIOD_INVALID"),
        (
            STARS | {"subscription_period": MONTH, "prices": [{"label": "x", "amount": 10_001}]},
            "SUBSCRIPTION_AMOUNT_INVALID",
        ),
        (STARS | {"business_connection_id": "x"}, "business connection not found"),
        (STARS | {"chat_id": 1}, "no parameter 'chat_id'"),
    ],
)
async def test_bad_links(call: Call, params: Json, description: str) -> None:
    refused(await call("createInvoiceLink", **params), 400, description)


async def test_only_stars_for_a_business(telegram: FakeTelegram, call: Call) -> None:
    connection = telegram.connect_business(5)
    assert (await call("createInvoiceLink", **STARS, business_connection_id=connection))[0] == 200
    refused(
        await call("createInvoiceLink", **MONEY, business_connection_id=connection), 400, "CURRENCY_INVALID"
    )


async def test_the_first_button_is_to_pay(call: Call) -> None:
    url, pay = {"text": "See", "url": "https://x.y"}, {"text": "Pay", "pay": True}
    for row in ([url, pay], [url]):
        answer = await call("sendInvoice", chat_id=1, **STARS, reply_markup={"inline_keyboard": [row]})
        refused(answer, 400, "BUTTON_TYPE_INVALID")
    answer = await call("sendInvoice", chat_id=1, **STARS, reply_markup={"inline_keyboard": [[pay, url]]})
    assert answer[0] == 200
    refused(
        await call("sendInvoice", chat_id=1, **STARS, reply_markup={"force_reply": True}),
        400,
        "inline keyboard",
    )


async def test_just_so(call: Call) -> None:
    longest = {"title": "ü" * 32, "description": "ü" * 255, "payload": "ü" * 64}
    assert (await call("sendInvoice", chat_id=1, **STARS | longest))[0] == 200
    tips = {"max_tip_amount": 9, "suggested_tip_amounts": [1, 2, 3, 9], "provider_data": "{}"}
    assert (await call("sendInvoice", chat_id=1, **MONEY | tips | {"prices": MONEY["prices"] * 2}))[0] == 200
