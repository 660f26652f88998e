"""A shop that takes Telegram's Stars: an invoice, the question before it is paid, a refund."""

from typing import Any

from aiogram import F, Router
from aiogram.filters import Command
from aiogram.methods import RefundStarPayment, TelegramMethod
from aiogram.types import LabeledPrice, Message, PreCheckoutQuery

from bot.agent_adapter import TelegramAgentAdapter

before = Router(name="before")

PRICE = 5
"""Stars."""


@before.message(Command("buy"))
async def buy(message: Message) -> TelegramMethod[Any]:
    """Send an invoice."""
    return message.answer_invoice(
        title="Tea",
        description="A pound of green tea.",
        payload="tea",
        currency="XTR",
        prices=[LabeledPrice(label="Tea", amount=PRICE)],
    )


@before.pre_checkout_query()
async def check(query: PreCheckoutQuery, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
    """Agree, or say why not, within ten seconds. `state` can be read here and not be changed."""
    if query.total_amount != PRICE:
        return query.answer(ok=False, error_message="The price has changed. Please ask for a new invoice.")
    if len(agent.turn.state.get("orders", {})) >= 3:
        return query.answer(ok=False, error_message="Three pounds are all I can send you.")
    return query.answer(ok=True)


@before.message(F.successful_payment)
async def paid(message: Message, agent: TelegramAgentAdapter) -> TelegramMethod[Any] | None:
    """Book the payment, once: under the id by which Telegram knows it."""
    payment = message.successful_payment
    orders = agent.turn.state.setdefault("orders", {})
    if payment is None or payment.telegram_payment_charge_id in orders:
        return None
    orders[payment.telegram_payment_charge_id] = payment.invoice_payload
    return message.answer(f"Thank you! Order {len(orders)} is on its way.")


@before.message(Command("refund"))
async def refund(message: Message, agent: TelegramAgentAdapter) -> list[TelegramMethod[Any]]:
    """Give the Stars of the last order back. Sent twice, if need be, it is done once."""
    orders = agent.turn.state.get("orders", {})
    if not orders or not message.from_user:
        return [message.answer("There is nothing to give back.")]
    charge_id, _ = orders.popitem()
    back = RefundStarPayment(user_id=message.from_user.id, telegram_payment_charge_id=charge_id)
    return [back, message.answer("Your Stars are on their way back.")]
