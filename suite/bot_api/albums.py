"""Albums that a bot sends."""

import json
from typing import TYPE_CHECKING, Any

from suite.bot_api.call import Call, Json, json_list, of_type, words
from suite.bot_api.errors import bad_request
from suite.bot_api.files import content_of
from suite.bot_api.people import new_media_group_id
from suite.bot_api.text import formatted

if TYPE_CHECKING:
    from suite.bot_api.people import People

KINDS = words("photo live_photo video document audio")
ALONE = words("document audio")
"""Kinds that are in albums of their own."""

COMMON = words("type media caption parse_mode caption_entities thumbnail")
FIELDS = {
    "photo": COMMON | words("show_caption_above_media has_spoiler"),
    "live_photo": COMMON | words("photo show_caption_above_media has_spoiler"),
    "video": COMMON
    | words(
        """cover start_timestamp show_caption_above_media width height duration supports_streaming
        has_spoiler"""
    ),
    "document": COMMON | words("disable_content_type_detection"),
    "audio": COMMON | words("duration performer title"),
}
PARAMETERS = """business_connection_id chat_id message_thread_id direct_messages_topic_id media
    disable_notification protect_content allow_paid_broadcast message_effect_id reply_parameters"""


class Albums:
    """Teaches a server `sendMediaGroup`."""

    def __init__(self, telegram: "People") -> None:
        self._telegram = telegram
        telegram.method("sendMediaGroup", PARAMETERS)(self._send)

    async def _send(self, call: Call) -> list[Json]:
        items = [_checked(item) for item in json_list(call.params, "media")]
        if not items:
            raise bad_request("there are no messages to send")
        if len(items) < 2:
            raise bad_request("too few messages to send as an album")
        if len(items) > 10:
            raise bad_request("too many messages to send as an album")
        kinds = {item["type"] for item in items}
        if len(kinds) > 1 and (alone := kinds & ALONE):
            raise bad_request(f"{min(alone)} can't be mixed with other media types")
        if len({bool(item.get("show_caption_above_media")) for item in items}) > 1:
            raise bad_request("parameter show_caption_above_media must be the same for all messages")
        # All of it before any of it is sent.
        contents = [self._content(call, item) for item in items]
        group = {"media_group_id": new_media_group_id()}
        return [self._telegram.post(call, group | each, each.get("caption", "")) for each in contents]

    def _content(self, call: Call, item: Json) -> Json:
        kind = "photo" if item["type"] == "live_photo" else item["type"]
        file = self._telegram.files.sent(call, kind, item["media"])
        if item["type"] == "live_photo":
            self._telegram.files.sent(call, "photo", of_type(item, "photo", str, "InputMedia"))
        return content_of(kind, file) | _caption(item)


def _checked(item: Any) -> Json:
    """An InputMedia that may be in an album."""
    if not isinstance(item, dict):
        raise bad_request("can't parse InputMedia: expected an Object")
    kind = of_type(item, "type", str, "InputMedia")
    if kind == "animation":
        raise bad_request(f"can't parse InputMedia: type \"{kind}\" can't be used in sendMediaGroup")
    if kind not in KINDS:
        raise bad_request(f'can\'t parse InputMedia: type "{kind}" is unsupported')
    if unknown := item.keys() - FIELDS[kind]:
        raise bad_request(f"InputMedia has no field {min(unknown)!r}")
    if not isinstance(item.get("media"), str) or not item["media"]:
        raise bad_request("can't parse InputMedia: media not found")
    return item


def _caption(item: Json) -> Json:
    """The caption as a message has it, which is written in the item as in a call."""
    params = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in item.items()
        if name in ("caption", "parse_mode", "caption_entities") and value is not None
    }
    return formatted(params, "caption", 1024) if "caption" in params else {}
