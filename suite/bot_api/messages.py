"""What a bot sends, edits, deletes and answers: texts, single files, chat actions, pressed buttons."""

import time
from typing import TYPE_CHECKING

from suite.bot_api.call import Call, Json, words
from suite.bot_api.errors import bad_request
from suite.bot_api.files import content_of
from suite.bot_api.markup import markup_of
from suite.bot_api.rich import rich_message_of
from suite.bot_api.text import formatted

if TYPE_CHECKING:
    from suite.bot_api.people import People

ACTIONS = words(
    """typing upload_photo record_video upload_video record_voice upload_voice upload_document
    choose_sticker find_location record_video_note upload_video_note"""
)
QUERY_TOO_OLD = "query is too old and response timeout expired or query ID is invalid"
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are "
    "exactly the same as a current content and reply markup of the message"
)
AT = "business_connection_id chat_id "
OPTIONS = "disable_notification protect_content message_effect_id reply_parameters reply_markup "
SEND = f"""{AT} {OPTIONS} message_thread_id direct_messages_topic_id allow_paid_broadcast
    suggested_post_parameters """
TEXT = "text parse_mode entities link_preview_options "
CAPTION = "caption parse_mode caption_entities "
EPHEMERAL = "ephemeral_message_parameters "
FILES = {
    "sendPhoto": "photo show_caption_above_media has_spoiler",
    "sendDocument": "document thumbnail disable_content_type_detection",
    "sendVideo": """video duration width height thumbnail cover start_timestamp show_caption_above_media
        has_spoiler supports_streaming""",
    "sendAnimation": "animation duration width height thumbnail show_caption_above_media has_spoiler",
    "sendAudio": "audio duration performer title thumbnail",
    "sendVoice": "voice duration",
}


class Messages:
    """Teaches a server those methods."""

    def __init__(self, telegram: "People") -> None:
        self._telegram = telegram
        edit = f"{AT} message_id inline_message_id reply_markup "
        query = "callback_query_id text show_alert url cache_time"
        teach = telegram.method
        teach("getMe", "")(self._get_me)
        teach("sendMessage", SEND + TEXT + EPHEMERAL)(self._send_message)
        for name, own in FILES.items():
            teach(name, SEND + CAPTION + EPHEMERAL + own)(self._send_file)
        teach("sendChatAction", AT + "message_thread_id action")(self._chat_action)
        teach("editMessageText", edit + TEXT + "rich_message")(self._edit_text)
        teach("editMessageReplyMarkup", edit)(self._edit_markup)
        teach("deleteMessage", "chat_id message_id")(self._delete_message)
        teach("answerCallbackQuery", query)(self._answer_query)

    async def _get_me(self, call: Call) -> Json:
        abilities = words(
            """can_join_groups can_read_all_group_messages supports_inline_queries
            can_connect_to_business has_main_web_app"""
        )
        return self._telegram.me() | dict.fromkeys(abilities, False)

    async def _send_message(self, call: Call) -> Json:
        content = formatted(call.params, "text", 4096)
        return self._telegram.post(call, content, content["text"])

    async def _send_file(self, call: Call) -> Json:
        self._telegram.writable(call)
        kind = call.method.removeprefix("send").lower()
        given = call.params.get(kind) or f"attach://{kind}"
        file = self._telegram.files.sent(call, kind, given)
        content = formatted(call.params, "caption", 1024) if "caption" in call.params else {}
        return self._telegram.post(call, content_of(kind, file) | content, content.get("caption", ""))

    async def _chat_action(self, call: Call) -> bool:
        self._telegram.writable(call)
        if call.params.get("action") not in ACTIONS:
            raise bad_request("wrong parameter action in request")
        return True

    async def _edit_text(self, call: Call) -> Json:
        message = self._telegram.own_message(call, "edit")
        if "rich_message" in call.params:
            content, text = rich_message_of(self._telegram.files, call)
        else:
            content = formatted(call.params, "text", 4096)
            text = content["text"]
        if not {"text", "rich_message"} & message.keys():
            raise bad_request("there is no text in the message to edit")
        return change(self._telegram, call, message, content, text)

    async def _edit_markup(self, call: Call) -> Json:
        message = self._telegram.own_message(call, "edit")
        return change(self._telegram, call, message, None, message.get("text", ""))

    async def _delete_message(self, call: Call) -> bool:
        message = self._telegram.own_message(call, "delete")
        del self._telegram.messages[message["chat"]["id"], message["message_id"]]
        return True

    async def _answer_query(self, call: Call) -> bool:
        text, query_id = call.params.get("text", ""), call.params.get("callback_query_id", "")
        if len(text) > 200:
            raise bad_request("MESSAGE_TOO_LONG")
        made, message = self._telegram.queries.pop(query_id, (float("-inf"), {}))
        if time.monotonic() > made + self._telegram.query_life:
            raise bad_request(QUERY_TOO_OLD)
        self._telegram.record(call, message, text)
        return True


def change(telegram: "People", call: Call, message: Json, content: Json | None, text: str) -> Json:
    """Puts new content (None: as it was) and new buttons (none: no buttons) in a message."""
    if (markup := markup_of(call.params)) is not None and "inline_keyboard" not in markup:
        raise bad_request("inline keyboard expected")
    old = {key: value for key, value in message.items() if key != "edit_date"}
    removed = {"reply_markup"} if content is None else {"reply_markup", "entities", "text", "rich_message"}
    new = {key: value for key, value in old.items() if key not in removed} | (content or {})
    if markup and markup["inline_keyboard"]:
        new["reply_markup"] = markup
    if new == old:
        raise bad_request(NOT_MODIFIED)
    new["edit_date"] = int(time.time())
    telegram.messages[message["chat"]["id"], message["message_id"]] = new
    return telegram.record(call, new, text)
