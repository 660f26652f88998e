"""The fast import of aiogram works with the aiogram that is installed.

When it does not, the bot starts all the same, with a warning and a few seconds later.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.clause("import.fast")


def test_aiogram_is_imported_without_building_its_models() -> None:
    code = """if True:
        import logging
        logging.basicConfig(format="%(message)s")
        from bot.runtime.telegram.fast_import import import_aiogram
        print(import_aiogram())
        from aiogram.types import Sticker, Update
        print(Sticker.__pydantic_complete__)
        print(Update.model_validate({"update_id": 7}).update_id)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert result.stdout.split() == ["True", "False", "7"], result.stderr
    assert result.stderr == ""


def test_the_first_message_finds_its_models_built() -> None:
    code = """if True:
        from bot.runtime.telegram.fast_import import _subclasses, import_aiogram
        import_aiogram()
        from aiogram import Bot
        from pydantic import BaseModel
        from bot.runtime.telegram.calls import Reply, Session, StoredCall, build_models
        from bot.runtime.telegram.updates import parse_update

        def built():
            return {cls for cls in _subclasses(BaseModel) if cls.__pydantic_complete__}

        bot, before = Bot("42:TEST", session=Session()), built()
        build_models(bot)
        ready = built()
        chat, user = {"id": 7, "type": "private"}, {"id": 7, "is_bot": False, "first_name": "Ann"}
        message = {"message_id": 1, "date": 1, "chat": chat, "from": user, "text": "hi"}
        update = parse_update(bot, {"update_id": 1, "message": message})
        update.message.answer("hello").model_dump()
        StoredCall(reply=Reply("sendMessage", {}))
        print(len(before) < len(ready), built() - ready)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert result.stdout.split() == ["True", "set()"], result.stderr
