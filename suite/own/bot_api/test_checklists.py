"""Checklists: for business accounts, and from people."""

from typing import Any

import pytest
from aiogram import Bot
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import InputChecklist, InputChecklistTask

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")

TASK: Json = {"id": 1, "text": "x"}
LIST: Json = {"title": "Trip", "tasks": [TASK]}


@pytest.fixture
def connection(telegram: FakeTelegram) -> str:
    """Somebody's business account, which the bot writes for."""
    return telegram.connect_business(5)


def trip(*texts: str) -> InputChecklist:
    """A checklist of a bot."""
    tasks = [InputChecklistTask(id=n, text=text) for n, text in enumerate(texts, start=1)]
    return InputChecklist(title="<b>Trip</b>", parse_mode="HTML", tasks=tasks, others_can_add_tasks=True)


async def test_a_business_account_is_connected(telegram: FakeTelegram, bot: Bot, connection: str) -> None:
    (update,) = await bot.get_updates()
    assert update.business_connection
    assert (update.business_connection.id, update.business_connection.user.id) == (connection, 5)
    message = await bot.send_message(1, "x", business_connection_id=connection)
    assert message.business_connection_id == connection
    with pytest.raises(TelegramBadRequest, match="business connection not found"):
        await bot.send_message(1, "x", business_connection_id="none")


async def test_a_bot_sends_a_checklist(telegram: FakeTelegram, bot: Bot, connection: str) -> None:
    message = await bot.send_checklist(connection, 1, trip("Pass<b>port", "Tent"))
    assert message.checklist
    assert message.business_connection_id == connection
    assert (message.checklist.title, message.checklist.others_can_add_tasks) == ("Trip", True)
    assert message.checklist.others_can_mark_tasks_as_done is None
    assert message.checklist.title_entities
    assert [(t.id, t.text) for t in message.checklist.tasks] == [(1, "Pass<b>port"), (2, "Tent")]
    assert (telegram.sent[0].method, telegram.sent[0].text) == ("sendChecklist", "Trip")


async def test_tasks_of_a_bots_checklist_are_done(telegram: FakeTelegram, bot: Bot, connection: str) -> None:
    sent = await bot.send_checklist(connection, 1, trip("Passport", "Tent"))
    update_id = telegram.checklists.tick(telegram.sent[0], 2, user_id=1)
    update = (await bot.get_updates(offset=-1))[0]
    assert (update.update_id, update.event_type) == (update_id, "business_message")
    message = update.business_message
    assert message
    done = message.checklist_tasks_done
    assert done
    assert (message.business_connection_id, done.marked_as_done_task_ids) == (connection, [2])
    assert done.checklist_message
    assert done.checklist_message.message_id == sent.message_id
    assert done.checklist_message.checklist
    by = [task.completed_by_user for task in done.checklist_message.checklist.tasks]
    assert by[0] is None
    assert by[1]
    assert by[1].id == 1
    edited = await bot.edit_message_checklist(connection, 1, sent.message_id, trip("Passport", "Big tent"))
    assert isinstance(edited, type(sent))
    assert edited.checklist
    assert edited.checklist.tasks[1].completed_by_user, "what is done stays done"


async def test_editing(telegram: FakeTelegram, bot: Bot, call: Call, connection: str) -> None:
    sent = await bot.send_checklist(connection, 1, trip("Passport"))
    plain = await bot.send_message(1, "x")
    where: Json = {"business_connection_id": connection, "chat_id": 1, "message_id": sent.message_id}
    await bot.edit_message_checklist(connection, 1, sent.message_id, trip("Passport", "Tent"))
    again = {"title": "Trip", "tasks": [TASK]}
    assert (await call("editMessageChecklist", **where, checklist=again))[0] == 200
    refused(await call("editMessageChecklist", **where, checklist=again), 400, "message is not modified")
    for change, description in (
        ({"message_id": 99}, "message to edit not found"),
        ({"message_id": plain.message_id}, "message can't be edited"),
        ({"business_connection_id": "none"}, "business connection not found"),
        ({"business_connection_id": None}, 'parameter "business_connection_id" is required'),
        ({"checklist": {}}, 'Can\'t find field "title"'),
    ):
        answer = await call("editMessageChecklist", **where | {"checklist": LIST} | change)
        refused(answer, 400, description)


@pytest.mark.parametrize(
    ("checklist", "description"),
    [
        (None, 'parameter "checklist" is required'),
        ("{", "can't parse InputChecklist JSON object"),
        ([], "can't parse InputChecklist: expected an Object"),
        (LIST | {"name": "x"}, "InputChecklist has no field 'name'"),
        ({"tasks": [TASK]}, "can't parse InputChecklist: Can't find field \"title\""),
        (LIST | {"title": " "}, "title must be non-empty"),
        (LIST | {"title": "x" * 256}, "title is too long"),
        (LIST | {"title": 1}, 'Field "title" must be of type String'),
        (LIST | {"title": "<b>x", "parse_mode": "HTML"}, "can't parse entities"),
        (
            LIST | {"title_entities": [{"type": "url", "offset": 0, "length": 1}]},
            'entity "url" is not allowed',
        ),
        (LIST | {"tasks": TASK}, 'Field "tasks" must be of type Array'),
        (LIST | {"tasks": []}, "1-30 tasks"),
        (LIST | {"tasks": [{"id": n, "text": "x"} for n in range(1, 32)]}, "1-30 tasks"),
        (LIST | {"tasks": [1]}, "can't parse InputChecklistTask: expected an Object"),
        (LIST | {"tasks": [TASK | {"done": True}]}, "InputChecklistTask has no field 'done'"),
        (LIST | {"tasks": [TASK | {"id": 0}]}, "positive and unique"),
        (LIST | {"tasks": [TASK, TASK]}, "positive and unique"),
        (LIST | {"tasks": [TASK | {"id": "1"}]}, 'Field "id" must be of type Number'),
        (LIST | {"tasks": [TASK | {"text": ""}]}, "text must be non-empty"),
        (LIST | {"tasks": [TASK | {"text": "x" * 101}]}, "text is too long"),
        (LIST | {"others_can_add_tasks": "yes"}, 'Field "others_can_add_tasks" must be of type Boolean'),
    ],
)
async def test_bad_checklists(
    telegram: FakeTelegram, call: Call, connection: str, checklist: Any, description: str
) -> None:
    answer = await call("sendChecklist", business_connection_id=connection, chat_id=1, checklist=checklist)
    refused(answer, 400, description)
    assert telegram.sent == []


async def test_just_so(call: Call, connection: str) -> None:
    longest = {"title": "x" * 255, "tasks": [{"id": n, "text": "x" * 100} for n in range(1, 31)]}
    answer = await call("sendChecklist", business_connection_id=connection, chat_id=1, checklist=longest)
    assert answer[0] == 200


async def test_only_for_a_business_account(call: Call) -> None:
    answer = await call("sendChecklist", chat_id=1, checklist=LIST)
    refused(answer, 400, 'parameter "business_connection_id" is required')
    answer = await call("sendChecklist", chat_id=1, checklist=LIST, business_connection_id="none")
    refused(answer, 400, "business connection not found")


async def test_people_send_checklists_and_tick_them_off(telegram: FakeTelegram, bot: Bot) -> None:
    sent = telegram.checklists.send("Trip", ["Passport", "Tent"], user_id=1)
    telegram.checklists.tick(sent, 1, 2, user_id=1)
    telegram.checklists.tick(sent, user_id=1, undone=(1,))
    arrived, done, undone = (update.message for update in await bot.get_updates())
    assert arrived
    assert arrived.checklist
    assert [task.text for task in arrived.checklist.tasks] == ["Passport", "Tent"]
    assert done
    assert done.checklist_tasks_done
    assert done.checklist_tasks_done.marked_as_done_task_ids == [1, 2]
    assert done.checklist_tasks_done.marked_as_not_done_task_ids is None
    assert undone
    assert undone.checklist_tasks_done
    assert undone.checklist_tasks_done.marked_as_not_done_task_ids == [1]
    now = undone.checklist_tasks_done.checklist_message
    assert now
    assert now.checklist
    assert [task.completed_by_user is not None for task in now.checklist.tasks] == [False, True]
    with pytest.raises(KeyError):
        telegram.checklists.tick(sent, 3, user_id=1)
