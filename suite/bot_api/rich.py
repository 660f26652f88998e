"""Rich messages: `sendRichMessage`, and what drafts and edits take of them."""

import re
from typing import TYPE_CHECKING

from suite.bot_api.call import Call, Json, json_object, of_type, only, words
from suite.bot_api.errors import bad_request
from suite.bot_api.rich_blocks import MEDIA, Blocks
from suite.bot_api.rich_html import blocks_of

if TYPE_CHECKING:
    from suite.bot_api.files import Files
    from suite.bot_api.people import People

CONTENT = words("html markdown blocks")
WHERE = "InputRichMessage"
PARAMETERS = """business_connection_id chat_id rich_message message_thread_id direct_messages_topic_id
    disable_notification protect_content allow_paid_broadcast message_effect_id suggested_post_parameters
    reply_parameters reply_markup ephemeral_message_parameters"""


class Rich:
    """Teaches a server `sendRichMessage`."""

    def __init__(self, telegram: "People") -> None:
        self._telegram = telegram
        telegram.method("sendRichMessage", PARAMETERS)(self._send)

    async def _send(self, call: Call) -> Json:
        content, text = rich_message_of(self._telegram.files, call)
        return self._telegram.post(call, content, text)


def rich_message_of(files: "Files", call: Call, *, is_draft: bool = False) -> tuple[Json, str]:
    """The `rich_message` of a call, as a field of a Message, and its text as people read it.

    Of Markdown only the paragraphs are told apart; its marks are left as they are.
    """
    given = json_object(call.params, "rich_message", WHERE)
    only(given, CONTENT | {"media", "is_rtl", "skip_entity_detection"}, WHERE)
    used = CONTENT & given.keys()
    if len(used) != 1:
        raise bad_request("exactly one of the fields html, markdown, and blocks must be used")
    if given.keys() & {"media"} and used == {"blocks"}:
        raise bad_request("media can be specified for html and markdown only")
    if "html" in given:
        blocks = blocks_of(of_type(given, "html", str, WHERE), _media_of(given))
    elif "markdown" in given:
        _media_of(given)
        parts = re.split(r"\n\s*\n", of_type(given, "markdown", str, WHERE).strip())
        blocks = [{"type": "paragraph", "text": part} for part in parts if part]
    else:
        blocks = of_type(given, "blocks", list, WHERE)
    reader = Blocks(files, call, is_draft=is_draft)
    message: Json = {"blocks": reader.read(blocks)}
    if of_type(given, "is_rtl", bool, WHERE, default=False):
        message["is_rtl"] = True
    return {"rich_message": message}, "\n".join(reader.text)


def _media_of(given: Json) -> dict[str, Json]:
    """An InputMedia for each id."""
    found: dict[str, Json] = {}
    for item in of_type(given, "media", list, WHERE, default=[]):
        if not isinstance(item, dict):
            raise bad_request("can't parse InputRichMessageMedia: expected an Object")
        name = of_type(item, "id", str, "InputRichMessageMedia")
        media = of_type(item, "media", dict, "InputRichMessageMedia")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name in found:
            raise bad_request("can't parse InputRichMessageMedia: wrong media identifier specified")
        if media.get("type") not in MEDIA:
            raise bad_request("can't parse InputRichMessageMedia: wrong type of media specified")
        found[name] = media
    return found
