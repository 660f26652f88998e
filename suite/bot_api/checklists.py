"""Checklists: bots send them for business accounts, people send them, and tick their tasks off."""

import json
import time
from typing import TYPE_CHECKING, Any

from suite.bot_api.call import Call, Json, json_object, of_type, only, required, words
from suite.bot_api.chats import Sent
from suite.bot_api.errors import bad_request
from suite.bot_api.messages import change
from suite.bot_api.people import person
from suite.bot_api.text import shown, utf16_length

if TYPE_CHECKING:
    from suite.bot_api.people import People

ENTITIES = words("bold italic underline strikethrough spoiler custom_emoji date_time")
COMPLETED = words("completed_by_user completion_date")
OTHERS = ("others_can_add_tasks", "others_can_mark_tasks_as_done")
FIELDS = words("title tasks parse_mode title_entities") | {*OTHERS}


class Checklists:
    """Teaches a server what bots do with checklists, and does what people do with them."""

    def __init__(self, telegram: "People") -> None:
        self._telegram = telegram
        at = "business_connection_id chat_id checklist reply_markup "
        options = "disable_notification protect_content message_effect_id reply_parameters"
        telegram.method("sendChecklist", at + options)(self._send)
        telegram.method("editMessageChecklist", at + "message_id")(self._edit)

    def send(self, title: str, tasks: list[str], *, user_id: int, **fields: Any) -> int:
        """Somebody sends a checklist, in private; its tasks have the ids 1, 2, 3 ...

        `fields` are further fields of the Message. Returns the update's id.
        """
        numbered = [{"id": number, "text": text} for number, text in enumerate(tasks, start=1)]
        checklist = {"title": title, "tasks": numbered}
        return self._telegram.message(None, user_id=user_id, checklist=checklist, **fields)

    def tick(
        self,
        checklist: Sent | int,
        *done: int,
        user_id: int,
        undone: tuple[int, ...] = (),
    ) -> int:
        """Somebody marks tasks as done, or as not done; returns the update's id.

        Args:
            checklist: what the bot sent, or the id of the update that brought it.
            done: ids of tasks.
            user_id: who does it.
            undone: ids of tasks that are not done after all.

        Raises:
            KeyError: it has no such task.
        """
        message = self._message(checklist)
        tasks = {task["id"]: task for task in message["checklist"]["tasks"]}
        for task_id in done:
            completed = {"completed_by_user": person(user_id), "completion_date": int(time.time())}
            tasks[task_id] = tasks[task_id] | completed
        for task_id in undone:
            tasks[task_id] = {key: value for key, value in tasks[task_id].items() if key not in COMPLETED}
        message["checklist"] = message["checklist"] | {"tasks": list(tasks.values())}
        marked: Json = {"checklist_message": message}
        if done:
            marked["marked_as_done_task_ids"] = list(done)
        if undone:
            marked["marked_as_not_done_task_ids"] = list(undone)
        return self._tell(message, user_id, {"checklist_tasks_done": marked})

    def _message(self, checklist: Sent | int) -> Json:
        if isinstance(checklist, Sent):
            return self._telegram.messages[checklist.chat_id, checklist.message_id]
        _, content = self._telegram.content(checklist)
        return self._telegram.messages[content["chat"]["id"], content["message_id"]]

    def _tell(self, message: Json, user_id: int, service: Json) -> int:
        """A service message in the checklist's chat, by way of the business connection where it has one."""
        chat_id = message["chat"]["id"]
        if "business_connection_id" not in message:
            own = None if chat_id == user_id else chat_id
            return self._telegram.message(None, user_id=user_id, chat_id=own, **service)
        connection = {"business_connection_id": message["business_connection_id"]}
        told = self._telegram.new_message(chat_id, {"from": person(user_id), **connection, **service})
        return self._telegram.push({"business_message": told})

    async def _send(self, call: Call) -> Json:
        required(call.params, "business_connection_id")
        checklist = checklist_of(call)
        return self._telegram.post(call, {"checklist": checklist}, checklist["title"])

    async def _edit(self, call: Call) -> Json:
        required(call.params, "business_connection_id")
        checklist = checklist_of(call)
        self._telegram.business_connection_of(call)
        message = self._telegram.own_message(call, "edit")
        if "checklist" not in message:
            raise bad_request("message can't be edited")
        before = {task["id"]: task for task in message["checklist"]["tasks"]}
        for task in checklist["tasks"]:  # what was done stays done
            old = before.get(task["id"], {})
            task |= {key: value for key, value in old.items() if key in COMPLETED}
        return change(self._telegram, call, message, {"checklist": checklist}, checklist["title"])


def checklist_of(call: Call) -> Json:
    """The checklist of a call, as it stands in a Message.

    Raises:
        ApiError: 400, where Telegram would not take it.
    """
    given = json_object(call.params, "checklist", "InputChecklist")
    only(given, FIELDS, "InputChecklist")
    title = _text(given, "title", 255, "InputChecklist")
    tasks = of_type(given, "tasks", list, "InputChecklist")
    if not 1 <= len(tasks) <= 30:
        raise bad_request("CHECKLIST_TASKS_INVALID: a checklist has 1-30 tasks")
    read = [_task(task) for task in tasks]
    ids = [task["id"] for task in read]
    if min(ids) < 1 or len({*ids}) < len(ids):
        raise bad_request("task identifiers must be positive and unique")
    others = {name: True for name in OTHERS if of_type(given, name, bool, "InputChecklist", default=False)}
    return {**title, "tasks": read, **others}


def _task(task: Any) -> Json:
    where = "InputChecklistTask"
    if not isinstance(task, dict):
        raise bad_request(f"can't parse {where}: expected an Object")
    only(task, words("id text parse_mode text_entities"), where)
    return {"id": of_type(task, "id", int, where), **_text(task, "text", 100, where)}


def _text(given: Json, name: str, limit: int, where: str) -> Json:
    """A text with few kinds of entities."""
    entities = of_type(given, f"{name}_entities", list, where, default=[])
    source, mode = of_type(given, name, str, where), of_type(given, "parse_mode", str, where, default="")
    text, found = shown(source, mode, entities)
    if not text:
        raise bad_request(f"can't parse {where}: {name} must be non-empty")
    if utf16_length(text) > limit:
        raise bad_request(f"can't parse {where}: {name} is too long")
    if unknown := [entity for entity in (*entities, *found) if entity.get("type") not in ENTITIES]:
        raise bad_request(f"can't parse {where}: entity {json.dumps(unknown[0].get('type'))} is not allowed")
    return {name: text} | ({f"{name}_entities": found} if found else {})
