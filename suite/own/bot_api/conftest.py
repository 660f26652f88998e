"""A fake Telegram, a real client of it, and a plain one. Each test here fails if its rule is missing."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json


@pytest.fixture
async def telegram() -> AsyncIterator[FakeTelegram]:
    """A server."""
    async with FakeTelegram() as server:
        yield server


@pytest.fixture
async def bot(telegram: FakeTelegram) -> AsyncIterator[Bot]:
    """aiogram's client of it."""
    session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
    bot = Bot(telegram.token, session=session)
    yield bot
    if session._session is not None:  # close() would wait 0.25 s each time, for TLS
        await session._session.close()


@pytest.fixture
async def call(telegram: FakeTelegram) -> AsyncIterator[Call]:
    """A plain client: call(method, **parameters) -> status, answer."""
    async with aiohttp.ClientSession() as http:

        async def call(method: str, **params: Any) -> tuple[int, Json]:
            url = f"{telegram.url}/bot{telegram.token}/{method}"
            async with http.post(url, json=params) as response:
                return response.status, await response.json()

        yield call
