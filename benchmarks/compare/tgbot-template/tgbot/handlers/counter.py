"""Counts each user's messages."""

import asyncio
import json

from aiogram import F, Router
from aiogram.filters import Command
from aiogram.fsm.context import FSMContext
from aiogram.types import BufferedInputFile, Message

counter_router = Router()


# audit
@counter_router.message(Command("export"))
async def export(message: Message, state: FSMContext) -> None:
    kept = json.dumps({"state": {"effects": await state.get_value("seen", [])}})
    await message.answer_document(BufferedInputFile(kept.encode(), "kept.json"))


# end of audit


@counter_router.message(F.text)
async def count(message: Message, state: FSMContext) -> None:
    name, seconds = message.text.split()
    seen = await state.get_value("seen", [])
    await asyncio.sleep(float(seconds))  # the call of a model, or of another service
    seen = [*seen, name]
    await state.update_data(seen=seen)
    await message.answer(f"{name} #{len(seen)}")
