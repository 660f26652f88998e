"""What a bot sends, edits, deletes and answers: texts, single files, chat actions, pressed buttons."""

import json
import time
from typing import TYPE_CHECKING

from suite.bot_api.call import Call, Json, integer, json_list, json_object, words
from suite.bot_api.errors import bad_request
from suite.bot_api.files import KINDS, content_of
from suite.bot_api.markup import markup_of
from suite.bot_api.rich import rich_message_of
from suite.bot_api.text import formatted, utf16_length

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
COPY = f"""chat_id {OPTIONS} message_thread_id direct_messages_topic_id allow_paid_broadcast
    suggested_post_parameters from_chat_id message_id video_start_timestamp show_caption_above_media """
POLL = f"""{AT} {OPTIONS} message_thread_id allow_paid_broadcast question question_parse_mode
    question_entities options is_anonymous type allows_multiple_answers allows_revoting shuffle_options
    allow_adding_options hide_results_until_closes members_only country_codes correct_option_ids
    explanation explanation_parse_mode explanation_entities explanation_media open_period close_date
    is_closed description description_parse_mode description_entities media"""
RIGHTS = words(
    """can_be_edited is_anonymous can_manage_chat can_delete_messages can_manage_video_chats
    can_restrict_members can_promote_members can_change_info can_invite_users can_post_stories
    can_edit_stories can_delete_stories can_send_welcome_messages"""
)
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
        teach("getChatMember", "chat_id user_id")(self._get_member)
        teach("sendMessage", SEND + TEXT + EPHEMERAL)(self._send_message)
        for name, own in FILES.items():
            teach(name, SEND + CAPTION + EPHEMERAL + own)(self._send_file)
        teach("sendChatAction", AT + "message_thread_id action")(self._chat_action)
        teach("editMessageText", edit + TEXT + "rich_message")(self._edit_text)
        teach("editMessageCaption", edit + CAPTION + "show_caption_above_media")(self._edit_caption)
        teach("editMessageMedia", edit + "media")(self._edit_media)
        teach("editMessageReplyMarkup", edit)(self._edit_markup)
        teach("copyMessage", COPY + CAPTION)(self._copy)
        teach("sendPoll", POLL)(self._send_poll)
        teach("deleteMessage", "chat_id message_id")(self._delete_message)
        teach("answerCallbackQuery", query)(self._answer_query)

    async def _get_member(self, call: Call) -> Json:
        chat_id, user_id = self._telegram.writable(call), integer(call.params, "user_id", 0)
        user = {"id": user_id, "is_bot": False, "first_name": f"User {user_id}"}
        if (chat_id, user_id) not in self._telegram.administrators:
            return {"status": "member", "user": user}
        return {"status": "administrator", "user": user, **dict.fromkeys(RIGHTS, False)}

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
            content = formatted(call.params, "text", 4096, too_long="MESSAGE_TOO_LONG")
            text = content["text"]
        if not {"text", "rich_message"} & message.keys():
            raise bad_request("there is no text in the message to edit")
        return change(self._telegram, call, message, content, text)

    async def _edit_caption(self, call: Call) -> Json:
        message = self._telegram.own_message(call, "edit")
        if not KINDS & message.keys():
            raise bad_request("there is no caption in the message to edit")
        file = {key: message[key] for key in KINDS & message.keys()}
        return self._with_caption(call, message, call.params, file)

    async def _edit_media(self, call: Call) -> Json:
        message, media = (
            self._telegram.own_message(call, "edit"),
            json_object(call.params, "media", "InputMedia"),
        )
        file = self._telegram.files.sent(call, media["type"], media["media"])
        params = {key: value if isinstance(value, str) else json.dumps(value) for key, value in media.items()}
        return self._with_caption(call, message, params, content_of(media["type"], file))

    def _with_caption(self, call: Call, message: Json, params: dict[str, str], file: Json) -> Json:
        content = formatted(params, "caption", 1024, too_long="MEDIA_CAPTION_TOO_LONG")
        return change(self._telegram, call, message, file | content, content["caption"])

    async def _copy(self, call: Call) -> Json:
        there = (
            integer(call.params, "from_chat_id", 0, -(2**53), 2**53),
            integer(call.params, "message_id", 0),
        )
        if (original := self._telegram.messages.get(there)) is None:
            raise bad_request("message to copy not found")
        content = {key: original[key] for key in KINDS & original.keys()}
        caption: Json = {
            key: value for key, value in original.items() if key in ("caption", "caption_entities")
        }
        if "caption" in call.params:
            caption = formatted(call.params, "caption", 1024, too_long="MEDIA_CAPTION_TOO_LONG")
        copied = self._telegram.post(call, content | caption, caption.get("caption", ""))
        return {"message_id": copied["message_id"]}

    async def _send_poll(self, call: Call) -> Json:
        params = {
            name.replace("question", "caption").replace("caption_parse", "parse"): value
            for name, value in call.params.items()
            if name.startswith("question")
        }
        question = formatted(params, "caption", 300, too_long="poll question length must not exceed 300")
        options = json_list(call.params, "options")
        poll = {"id": "1", "question": question["caption"], "options": [], "type": "regular"}
        if len(options) < 1:
            raise bad_request("poll must have at least 1 option")
        rules = {"total_voter_count": 0, "is_closed": False, "is_anonymous": True}
        rules |= dict.fromkeys(words("allows_multiple_answers allows_revoting members_only"), False)
        return self._telegram.post(call, {"poll": poll | rules}, question["caption"])

    async def _edit_markup(self, call: Call) -> Json:
        message = self._telegram.own_message(call, "edit")
        return change(self._telegram, call, message, None, message.get("text", ""))

    async def _delete_message(self, call: Call) -> bool:
        message = self._telegram.own_message(call, "delete")
        del self._telegram.messages[message["chat"]["id"], message["message_id"]]
        return True

    async def _answer_query(self, call: Call) -> bool:
        text, query_id = call.params.get("text", ""), call.params.get("callback_query_id", "")
        if utf16_length(text) > 200:
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
    shown = {"entities", "text", "rich_message", "caption", "caption_entities", *KINDS}
    removed = {"reply_markup"} if content is None else {"reply_markup", *shown}
    new = {key: value for key, value in old.items() if key not in removed} | (content or {})
    if markup and markup["inline_keyboard"]:
        new["reply_markup"] = markup
    if new == old:
        raise bad_request(NOT_MODIFIED)
    new["edit_date"] = int(time.time())
    telegram.messages[message["chat"]["id"], message["message_id"]] = new
    return telegram.record(call, new, text)
