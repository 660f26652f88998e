"""Rich messages: what is taken, how it is shown, and the documented limits."""

from typing import Any

import pytest
from aiogram import Bot
from aiogram.types import (
    BufferedInputFile,
    InputMediaPhoto,
    InputRichBlockDivider,
    InputRichBlockParagraph,
    InputRichBlockSectionHeading,
    InputRichMessage,
    InputRichMessageMedia,
    RichBlockList,
    RichBlockParagraph,
    RichBlockPhoto,
    RichTextBold,
)

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")

P: Json = {"type": "paragraph", "text": "x"}
CELL: Json = {"text": "x", "align": "left", "valign": "top"}
BUTTON: Json = {"text": "x", "callback_data": "y"}


def nested(depth: int) -> Json:
    """A quotation in a quotation in a ..."""
    return {"type": "blockquote", "blocks": [nested(depth - 1)]} if depth else P


async def test_blocks(telegram: FakeTelegram, bot: Bot) -> None:
    blocks: list[Any] = [
        InputRichBlockSectionHeading(text="Title", size=2),
        InputRichBlockParagraph(text=["Some ", RichTextBold(text="words")]),
        InputRichBlockDivider(),
    ]
    message = await bot.send_rich_message(-7, InputRichMessage(blocks=blocks, is_rtl=True))
    assert message.content_type == "rich_message"
    assert message.rich_message
    assert [block.type for block in message.rich_message.blocks] == ["heading", "paragraph", "divider"]
    assert message.rich_message.is_rtl is True
    (sent,) = telegram.sent
    assert (sent.method, sent.text) == ("sendRichMessage", "Title\nSome \nwords")


async def test_html(telegram: FakeTelegram, bot: Bot) -> None:
    html = """Loose <b>bold <i>and more</i></b><h1>Title</h1><p>a<br>b <a href="https://x.y">c</a>
        <tg-math>x^2</tg-math></p>
        <pre>code</pre><hr/><ol><li>one</li><li>two<ul><li>deep</li></ul></li></ol>
        <blockquote>quoted<cite>somebody</cite></blockquote><aside>pulled</aside>
        <details open><summary>More</summary><p>hidden</p></details><footer>end</footer>
        <table><caption>T</caption><tr><th>h</th></tr><tr><td align="right">1 &lt; 2</td></tr></table>
        <tg-math-block>E=mc^2</tg-math-block>"""
    message = await bot.send_rich_message(1, InputRichMessage(html=html))
    assert message.rich_message
    blocks = message.rich_message.blocks
    assert [block.type for block in blocks] == [
        "paragraph", "heading", "paragraph", "pre", "divider", "list", "blockquote", "pullquote", "details",
        "footer", "table", "mathematical_expression",
    ]  # fmt: skip
    ordered = blocks[5]
    assert isinstance(ordered, RichBlockList)
    assert [item.label for item in ordered.items] == ["1.", "2."]
    loose = blocks[0]
    assert isinstance(loose, RichBlockParagraph)
    assert isinstance(loose.text, list)
    assert isinstance(loose.text[1], RichTextBold)
    for text in ("Loose", "and more", "quoted", "somebody", "1 < 2", "deep", "E=mc^2", "x^2"):
        assert text in telegram.sent[0].text


async def test_markdown_is_left_as_it_is(telegram: FakeTelegram, bot: Bot) -> None:
    message = await bot.send_rich_message(1, InputRichMessage(markdown="# Title\n\n**bold**\ntext\n\n"))
    assert message.rich_message
    assert [block.type for block in message.rich_message.blocks] == ["paragraph"] * 2
    assert telegram.sent[0].text == "# Title\n**bold**\ntext"


async def test_media(telegram: FakeTelegram, bot: Bot) -> None:
    photo = InputMediaPhoto(media=BufferedInputFile(b"png", "a.png"))
    rich = InputRichMessage(
        html="<p>Look</p><img src='tg://photo?id=it-1'/>",
        media=[InputRichMessageMedia(id="it-1", media=photo)],
    )
    message = await bot.send_rich_message(1, rich)
    assert message.rich_message
    block = message.rich_message.blocks[1]
    assert isinstance(block, RichBlockPhoto)
    downloaded = await bot.download(block.photo[-1])
    assert downloaded
    assert downloaded.read() == b"png"
    assert telegram.sent[0].files == {"a.png": b"png"}


@pytest.mark.parametrize(
    ("rich", "description"),
    [
        (None, 'parameter "rich_message" is required'),
        ("{", "can't parse InputRichMessage JSON object"),
        ([], "can't parse InputRichMessage: expected an Object"),
        ({}, "exactly one of the fields html, markdown, and blocks must be used"),
        ({"html": "x", "markdown": "x"}, "exactly one of the fields"),
        ({"html": 1}, 'Field "html" must be of type String'),
        ({"blocks": P}, 'Field "blocks" must be of type Array'),
        ({"html": "x", "blcks": []}, "InputRichMessage has no field 'blcks'"),
        ({"html": "x", "is_rtl": 1}, 'Field "is_rtl" must be of type Boolean'),
        ({"html": " "}, "rich message is empty"),
        ({"markdown": "\n\n"}, "rich message is empty"),
        ({"blocks": []}, "rich message is empty"),
        ({"html": "<p>x"}, "Can't find end tag"),
        ({"html": "<p>x</b>"}, "Unmatched end tag </b>"),
        ({"html": "<marquee>x</marquee>"}, 'Unsupported start tag "marquee"'),
        ({"html": "<li>x</li>"}, "stands in a wrong place"),
        ({"html": "<p><h1>x</h1></p>"}, "stands in a wrong place"),
        ({"html": "<img src='tg://photo?id=none'/>"}, "can't find media with identifier 'none'"),
        ({"html": "<img src='none'/>"}, "wrong file identifier"),
        ({"html": "<tg-thinking>x</tg-thinking>"}, 'type "thinking" is unsupported'),
        ({"blocks": [P], "media": []}, "media can be specified for html and markdown only"),
        ({"html": "x", "media": [{"id": "a b", "media": {"type": "photo"}}]}, "wrong media identifier"),
        ({"html": "x", "media": [{"id": "a" * 65, "media": {"type": "photo"}}]}, "wrong media identifier"),
        ({"html": "x", "media": [{"id": "a", "media": {"type": "photo"}}] * 2}, "wrong media identifier"),
        ({"html": "x", "media": [{"id": "a", "media": {"type": "poll"}}]}, "wrong type of media"),
        ({"html": "x", "media": [{"id": "a"}]}, 'Can\'t find field "media"'),
        ({"html": "x", "media": [1]}, "can't parse InputRichMessageMedia: expected an Object"),
    ],
)
async def test_bad_rich_messages(telegram: FakeTelegram, call: Call, rich: Any, description: str) -> None:
    refused(await call("sendRichMessage", chat_id=1, rich_message=rich), 400, description)
    assert telegram.sent == []


@pytest.mark.parametrize(
    ("block", "description"),
    [
        (1, "type null is unsupported"),
        ({"type": "poem"}, 'type "poem" is unsupported'),
        ({"type": "thinking", "text": "x"}, 'type "thinking" is unsupported'),
        ({"type": "paragraph"}, 'Can\'t find field "text"'),
        (P | {"texts": "x"}, "InputRichBlock has no field 'texts'"),
        (P | {"text": {"type": "loud", "text": "x"}}, 'can\'t parse RichText: type "loud" is unsupported'),
        (P | {"text": {"type": "url", "text": "x"}}, 'Can\'t find field "url"'),
        (P | {"text": 1}, "can't parse RichText"),
        ({"type": "heading", "text": "x", "size": 7}, "size must be from 1 to 6"),
        ({"type": "heading", "text": "x", "size": True}, 'Field "size" must be of type Number'),
        ({"type": "pre", "text": "x", "language": 1}, 'Field "language" must be of type String'),
        ({"type": "list", "items": [{"blocks": P}]}, 'Field "blocks" must be of type Array'),
        ({"type": "list", "items": [{"blocks": [P], "type": "b"}]}, "wrong type specified"),
        ({"type": "table", "cells": [CELL]}, "must be an Array of Arrays"),
        ({"type": "table", "cells": [[CELL | {"align": "top"}]]}, "wrong align specified"),
        ({"type": "table", "cells": [[CELL | {"valign": "left"}]]}, "wrong valign specified"),
        ({"type": "table", "cells": [[CELL] * 21]}, "too many columns"),
        ({"type": "table", "cells": [[CELL | {"colspan": 20}, CELL]]}, "too many columns"),
        ({"type": "map", "location": {}, "zoom": 25}, "zoom must be from 0 to 24"),
        ({"type": "map", "location": {}, "width": 9_000, "height": 1_001}, "wrong map dimensions"),
        ({"type": "map", "location": {}, "width": 2_100, "height": 100}, "wrong map dimensions"),
        ({"type": "buttons", "buttons": []}, "there must be 1-8 buttons"),
        ({"type": "buttons", "buttons": [BUTTON] * 9}, "there must be 1-8 buttons"),
        ({"type": "buttons", "buttons": [{"text": "x"}]}, "exactly one action"),
        ({"type": "buttons", "buttons": [BUTTON | {"url": "u"}]}, "exactly one action"),
        ({"type": "buttons", "buttons": [BUTTON | {"callback_data": "ü" * 33}]}, "BUTTON_DATA_INVALID"),
        ({"type": "buttons", "buttons": [BUTTON | {"style": "loud"}]}, "wrong style"),
        (
            {"type": "buttons", "buttons": [{"text": "x", "url": "u", "style": "link"}]},
            "only callback buttons",
        ),
        ({"type": "photo", "photo": {"type": "photo"}}, "media not found"),
        ({"type": "photo", "photo": {"type": "photo", "media": "none"}}, "wrong file identifier"),
        (nested(16), "rich message is nested too deep"),
    ],
)
async def test_bad_blocks(call: Call, block: Any, description: str) -> None:
    refused(await call("sendRichMessage", chat_id=1, rich_message={"blocks": [block]}), 400, description)


async def test_limits(telegram: FakeTelegram, call: Call) -> None:
    photo = {"type": "photo", "media": telegram.files.add(b"x", "photo")["file_id"]}
    just_so: list[list[Json]] = [
        [P | {"text": "😀" * 32_768}],
        [P] * 500,
        [nested(14)],
        [{"type": "photo", "photo": photo}] * 50,
        [{"type": "table", "cells": [[CELL] * 20]}],
        [{"type": "buttons", "buttons": [BUTTON] * 8}],
        [{"type": "map", "location": {"latitude": 1.0, "longitude": 2.0}}],
    ]
    for blocks in just_so:
        taken = await call("sendRichMessage", chat_id=1, rich_message={"blocks": blocks})
        assert taken[0] == 200, taken
    too_much: list[tuple[list[Json], str]] = [
        ([P | {"text": "x" * 32_769}], "too long"),
        ([P] * 501, "too many blocks"),
        ([{"type": "list", "items": [{"blocks": [P]}] * 250}], "too many blocks"),
        ([{"type": "photo", "photo": photo}] * 51, "too many media"),
    ]
    for blocks, description in too_much:
        answer = await call("sendRichMessage", chat_id=1, rich_message={"blocks": blocks})
        refused(answer, 400, f"rich message {'has' if 'many' in description else 'is'} {description}")


async def test_texts_become_rich_and_back(telegram: FakeTelegram, bot: Bot, call: Call) -> None:
    message = await bot.send_message(1, "plain")
    where: Json = {"chat_id": 1, "message_id": message.message_id}
    edited = await bot.edit_message_text(rich_message=InputRichMessage(html="<p>rich</p>"), **where)
    assert not isinstance(edited, bool)
    assert (edited.content_type, edited.text) == ("rich_message", None)
    refused(await call("editMessageText", **where, rich_message={"html": "<p>rich</p>"}), 400, "not modified")
    back = await bot.edit_message_text("plain", **where)
    assert not isinstance(back, bool)
    assert (back.text, back.rich_message) == ("plain", None)
    assert [s.text for s in telegram.sent] == ["plain", "rich", "plain"]
