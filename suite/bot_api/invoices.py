"""Invoices: read and checked as Telegram does it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from suite.bot_api.call import Call, Json, integer, json_list, of_type, only, required, words
from suite.bot_api.errors import bad_request
from suite.bot_api.markup import markup_of

STARS = "XTR"
MONTH = 2_592_000
PARAMETERS = """title description payload provider_token currency prices max_tip_amount suggested_tip_amounts
    provider_data photo_url photo_size photo_width photo_height need_name need_phone_number need_email
    need_shipping_address send_phone_number_to_provider send_email_to_provider is_flexible """
URL = re.compile(r"https?://[^/\s]+\S*")


@dataclass(frozen=True)
class Invoice:
    """What somebody may buy; amounts are in the smallest unit of the currency."""

    title: str
    description: str
    payload: str
    currency: str
    amount: int
    start_parameter: str = ""
    subscription_period: int = 0

    def shown(self) -> Json:
        """As it stands in a Message."""
        return {
            "title": self.title,
            "description": self.description,
            "start_parameter": self.start_parameter,
            "currency": self.currency,
            "total_amount": self.amount,
        }


def invoice_of(call: Call) -> Invoice:
    """The invoice that the call describes.

    Raises:
        ApiError: 400, where Telegram would not take it.
    """
    params = call.params
    title, description = required(params, "title"), required(params, "description")
    payload, currency = required(params, "payload"), required(params, "currency")
    if len(title) > 32:
        raise bad_request("INVOICE_TITLE_INVALID")
    if len(description) > 255:
        raise bad_request("INVOICE_DESCRIPTION_INVALID")
    if len(payload.encode()) > 128:
        raise bad_request("INVOICE_PAYLOAD_INVALID")
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise bad_request("CURRENCY_INVALID")
    required(params, "prices")
    amount = _amount(json_list(params, "prices"), currency)
    _check_provider(params, currency)
    _check_tips(params, currency)
    _check_photo(params)
    period = integer(params, "subscription_period", 0, 0)
    if period and (period != MONTH or currency != STARS):
        raise bad_request("SUBSCRIPTION_PERIOD_INVALID")
    if period and amount > 10_000:
        raise bad_request("SUBSCRIPTION_AMOUNT_INVALID")
    return Invoice(title, description, payload, currency, amount, params.get("start_parameter", ""), period)


def check_pay_button(call: Call) -> None:
    """An inline keyboard under an invoice begins with a Pay button."""
    markup = markup_of(call.params)
    if markup is None:
        return
    if "inline_keyboard" not in markup:
        raise bad_request("inline keyboard expected")
    rows = [row for row in markup["inline_keyboard"] if row]
    if rows and not rows[0][0].get("pay"):
        raise bad_request("BUTTON_TYPE_INVALID")


def pay_button(invoice: Invoice) -> Json:
    """The keyboard that an invoice has when the bot gives it none."""
    return {"inline_keyboard": [[{"text": f"Pay {invoice.amount} {invoice.currency}", "pay": True}]]}


def _amount(prices: list[Any], currency: str) -> int:
    """What it costs in all."""
    if not prices:
        raise bad_request("there must be at least one price")
    amount = 0
    for price in prices:
        if not isinstance(price, dict):
            raise bad_request("can't parse labeled price: LabeledPrice must be an Object")
        only(price, words("label amount"), "LabeledPrice")
        if not of_type(price, "label", str, "labeled price"):
            raise bad_request("can't parse labeled price: LabeledPrice label must be non-empty")
        amount += of_type(price, "amount", int, "labeled price")
    if currency == STARS and len(prices) != 1:
        raise bad_request("STARS_INVOICE_INVALID")
    if amount <= 0:
        raise bad_request("CURRENCY_TOTAL_AMOUNT_INVALID")
    return amount


def _check_provider(params: dict[str, str], currency: str) -> None:
    """Stars need no provider; all other money does."""
    if bool(params.get("provider_token")) is (currency == STARS):
        raise bad_request("PAYMENT_PROVIDER_INVALID")
    if params.get("provider_data"):
        try:
            json.loads(params["provider_data"])
        except ValueError:
            raise bad_request("DATA_JSON_INVALID") from None


def _check_tips(params: dict[str, str], currency: str) -> None:
    most = integer(params, "max_tip_amount", 0, 0, 10**12)
    tips = json_list(params, "suggested_tip_amounts") if params.get("suggested_tip_amounts") else []
    if currency == STARS and (most or tips):
        raise bad_request("STARS_INVOICE_INVALID")
    if not all(isinstance(tip, int) and not isinstance(tip, bool) for tip in tips):
        raise bad_request("can't parse suggested tip amount as Number")
    if len(tips) > 4 or tips != sorted(set(tips)) or any(not 0 < tip <= most for tip in tips):
        raise bad_request("TIP_AMOUNTS_INVALID")


def _check_photo(params: dict[str, str]) -> None:
    for name in ("photo_size", "photo_width", "photo_height"):
        integer(params, name, 0, 0)
    if params.get("photo_url") and not URL.fullmatch(params["photo_url"]):
        raise bad_request("WEBDOCUMENT_URL_INVALID")
