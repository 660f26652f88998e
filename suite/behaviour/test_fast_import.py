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
