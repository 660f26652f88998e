"""How calls arrive, and that nothing is forgotten in an outage."""

import asyncio
import logging

import aiohttp
import pytest
from aiogram import Bot, methods
from aiogram.exceptions import (
    TelegramNetworkError,
)

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, refused

pytestmark = pytest.mark.clause("kit.telegram")


async def test_wrong_token_is_401(telegram: FakeTelegram, call: Call) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{telegram.url}/bot42:WRONG/getMe") as response:
            body = {"ok": False, "error_code": 401, "description": "Unauthorized"}
            assert (response.status, await response.json()) == (401, body)
        async with http.get(f"{telegram.url}/") as response:
            assert response.status == 404
    refused(await call("sendMesage", chat_id=1, text="x"), 404, "Not Found")
    assert [(c.method, c.status) for c in telegram.calls] == [
        ("getMe", 401),
        ("/", 404),
        ("sendMesage", 404),
    ]
    assert telegram.sent == []


async def test_get_form_multipart_and_json(telegram: FakeTelegram) -> None:
    url = f"{telegram.url}/bot{telegram.token}/sendmessage"  # names are case-insensitive
    form = aiohttp.FormData({"chat_id": "1", "text": "multipart"})
    form._is_multipart = True
    async with aiohttp.ClientSession() as http:
        await http.get(url, params={"chat_id": "1", "text": "query"})
        await http.post(url, data={"chat_id": "1", "text": "form ü"})
        await http.post(url, data=form)
        await http.post(url, json={"chat_id": 1, "text": "json", "disable_notification": True})
        for broken in (b"[]", b"[1]", b"{", b'"\xff"'):
            headers = {"Content-Type": "application/json"}
            async with http.post(url, data=broken, headers=headers) as response:
                assert response.status == 400
    assert telegram.texts(1) == ["query", "form ü", "multipart", "json"]
    assert telegram.sent[3].params["disable_notification"] == "true"
    assert {c.method for c in telegram.calls} == {"sendMessage"}


async def test_unknown_parameters_are_refused(telegram: FakeTelegram, call: Call) -> None:
    refused(await call("sendMessage", chat_id=1, text="x", parse_mod="HTML"), 400, "parse_mod")
    refused(await call("getMe", chat_id=1), 400, "chat_id")
    assert telegram.texts(1) == []


async def test_state_outlives_an_outage(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    url, update_id = telegram.url, telegram.message("hello", user_id=1)
    poll = asyncio.create_task(call("getUpdates", offset=update_id + 1, timeout=50))
    await telegram.wait_for(lambda: telegram.calls)
    await telegram.stop()
    with pytest.raises(aiohttp.ClientError):
        await poll
    with pytest.raises(TelegramNetworkError):
        await bot.get_me()
    await telegram.start()
    assert telegram.url == url
    assert (await bot.get_me()).is_bot
    assert update_id in telegram.acknowledged


async def test_quiet(caplog: pytest.LogCaptureFixture, call: Call, telegram: FakeTelegram) -> None:
    caplog.set_level(logging.INFO)
    telegram.drop_answer("sendMessage")
    with pytest.raises(aiohttp.ClientError):
        await call("sendMessage", chat_id=1, text="x")
    await call("getMe")
    assert caplog.records == []


async def test_it_takes_the_parameters_that_aiogram_knows(telegram: FakeTelegram) -> None:
    """All that the API of aiogram's release documents, but for what is deprecated, and nothing else."""
    for name, method in telegram.methods().items():
        known = getattr(methods, name[0].upper() + name[1:], None)
        if known is None:
            assert name == "downloadFile"
            continue
        fields = {
            field
            for field, what in known.model_fields.items()
            if not (isinstance(what.json_schema_extra, dict) and what.json_schema_extra.get("deprecated"))
        }
        assert set(method.parameters or ()) == fields, name
