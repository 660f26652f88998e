"""Payments: somebody buys, the bot is asked within ten seconds, the money comes, and may go back."""

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from suite.bot_api.call import Call, Json, integer, is_true, required
from suite.bot_api.chats import Sent
from suite.bot_api.errors import bad_request
from suite.bot_api.invoices import PARAMETERS, STARS, Invoice, check_pay_button, invoice_of, pay_button
from suite.bot_api.messages import QUERY_TOO_OLD
from suite.bot_api.people import person

if TYPE_CHECKING:
    from suite.bot_api.people import People

State = Literal["waiting", "refused", "late", "paid", "refunded"]
AT = """chat_id message_thread_id direct_messages_topic_id start_parameter
    disable_notification protect_content allow_paid_broadcast message_effect_id suggested_post_parameters
    reply_parameters reply_markup """


@dataclass(eq=False)
class Purchase:
    """Somebody's try to buy something.

    Attributes:
        query_id: of the pre-checkout query.
        update_id: of the update that brings it; 0, when the bot did not ask for those.
        invoice: what is bought.
        user_id: who buys.
        chat_id: where the payment is told.
        until: when the bot has to have answered, monotonic.
        decided: what became of it, by what somebody did.
        error: what the person was told when the bot refused.
        charge_id: Telegram's id of the payment; empty while there is none.
    """

    query_id: str
    update_id: int
    invoice: Invoice
    user_id: int
    chat_id: int
    until: float
    decided: State = "waiting"
    error: str = ""
    charge_id: str = ""

    @property
    def state(self) -> State:
        """What became of it so far."""
        is_late = self.decided == "waiting" and time.monotonic() > self.until
        return "late" if is_late else self.decided


class Payments:
    """All purchases.

    Attributes:
        answer_within: how many seconds the bot has to answer a pre-checkout query.
        purchases: every one, in order.
    """

    def __init__(self, telegram: "People") -> None:
        self.answer_within: float = 10
        self.purchases: list[Purchase] = []
        self._telegram = telegram
        self._invoices: dict[tuple[int, int] | str, Invoice] = {}  # by chat and message, or by link
        teach = telegram.method
        teach("sendInvoice", AT + PARAMETERS)(self._send)
        link = "business_connection_id subscription_period "
        teach("createInvoiceLink", link + PARAMETERS)(self._create_link)
        teach("answerPreCheckoutQuery", "pre_checkout_query_id ok error_message")(self._answer)
        teach("refundStarPayment", "user_id telegram_payment_charge_id")(self._refund)

    def buy(self, invoice: Sent | str, *, user_id: int) -> Purchase:
        """Somebody confirms a payment: the bot gets a `pre_checkout_query`.

        Args:
            invoice: what the bot sent, or a link that it made.
            user_id: who buys.
        """
        key = (invoice.chat_id, invoice.message_id) if isinstance(invoice, Sent) else invoice
        bought = self._invoices[key]
        query_id = str(secrets.randbits(62))
        query = {"id": query_id, "from": person(user_id), "invoice_payload": bought.payload, **_sum(bought)}
        update_id = self._telegram.push({"pre_checkout_query": query})
        chat_id = invoice.chat_id if isinstance(invoice, Sent) else user_id
        until = time.monotonic() + self.answer_within
        purchase = Purchase(query_id, update_id, bought, user_id, chat_id, until)
        self.purchases.append(purchase)
        return purchase

    async def _send(self, call: Call) -> Json:
        invoice = invoice_of(call)
        check_pay_button(call)
        message = self._telegram.post(call, {"invoice": invoice.shown()}, invoice.title)
        message.setdefault("reply_markup", pay_button(invoice))
        self._invoices[message["chat"]["id"], message["message_id"]] = invoice
        return message

    async def _create_link(self, call: Call) -> str:
        invoice = invoice_of(call)
        if self._telegram.business_connection_of(call) and invoice.currency != STARS:
            raise bad_request("CURRENCY_INVALID")
        link = f"https://t.me/${secrets.token_urlsafe(9)}"
        self._invoices[link] = invoice
        return link

    async def _answer(self, call: Call) -> bool:
        query_id = call.params.get("pre_checkout_query_id", "")
        is_taken = is_true(call.params.get("ok", ""))
        error = "" if is_taken else required(call.params, "error_message")
        purchase = next((each for each in self.purchases if each.query_id == query_id), None)
        if purchase is None or purchase.state != "waiting":
            raise bad_request(QUERY_TOO_OLD)
        if is_taken:
            self._pay(purchase)
        else:
            purchase.decided, purchase.error = "refused", error
        return True

    def _pay(self, purchase: Purchase) -> None:
        purchase.decided, purchase.charge_id = "paid", f"stx{secrets.token_urlsafe(16)}"
        period = purchase.invoice.subscription_period
        recurring: Json = {"is_recurring": True, "is_first_recurring": True} if period else {}
        if period:
            recurring["subscription_expiration_date"] = int(time.time()) + period
        self._tell(purchase, "successful_payment", recurring)

    async def _refund(self, call: Call) -> bool:
        user_id = integer(call.params, "user_id", 0, 0, 2**52)
        charge_id = required(call.params, "telegram_payment_charge_id")
        if not user_id:
            raise bad_request("invalid user_id specified")
        found = next((each for each in self.purchases if each.charge_id == charge_id), None)
        if found is None or found.user_id != user_id or found.invoice.currency != STARS:
            raise bad_request("CHARGE_NOT_FOUND")
        if found.state == "refunded":
            raise bad_request("CHARGE_ALREADY_REFUNDED")
        found.decided = "refunded"
        self._tell(found, "refunded_payment", {})
        return True

    def _tell(self, purchase: Purchase, kind: str, further: Json) -> None:
        """The service message that says what became of the money."""
        told = {
            **_sum(purchase.invoice),
            "invoice_payload": purchase.invoice.payload,
            "telegram_payment_charge_id": purchase.charge_id,
            "provider_payment_charge_id": "" if purchase.invoice.currency == STARS else "provider-1",
            **further,
        }
        chat_id = None if purchase.chat_id == purchase.user_id else purchase.chat_id
        self._telegram.message(None, user_id=purchase.user_id, chat_id=chat_id, **{kind: told})


def _sum(invoice: Invoice) -> Json:
    return {"currency": invoice.currency, "total_amount": invoice.amount}
