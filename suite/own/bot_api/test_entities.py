"""Entities that bots send: what is taken, what is refused, and what is dropped."""

import json
from typing import Any

import pytest

from suite.bot_api import FakeTelegram
from suite.own.bot_api.client import Call, Json, refused

pytestmark = pytest.mark.clause("kit.telegram")

TEXT = "a👩bc defgh"
"""11 UTF-16 units, of which 1 and 2 are a pair."""


def of(kind: str, offset: int, length: int, **more: Any) -> Json:
    return {"type": kind, "offset": offset, "length": length, **more}


@pytest.mark.parametrize(
    "entities",
    [
        [of("bold", 0, 11)],
        [of("bold", 0, 5), of("italic", 1, 2), of("code", 6, 5)],
        [of("blockquote", 0, 11), of("pre", 1, 3, language="c"), of("code", 6, 2), of("spoiler", 8, 3)],
        [of("bold", 0, 5), of("blockquote", 0, 5)],
        [of("text_link", 0, 5, url="https://a.bc"), of("strikethrough", 0, 5)],
        [of("italic", 0, 5), of("text_link", 1, 2, url="tg://resolve?domain=x")],
        [of("text_link", 0, 5, url=url) for url in ("a.bc", "https://ü.de:1/x y", "http://u@[::1].b")[:2]],
        [of("mention", 0, 500), of("bold", 3, 0)],  # neither is looked at
        [of("custom_emoji", 1, 2, custom_emoji_id="5")],
    ],
    ids=str,
)
async def test_what_may_be(telegram: FakeTelegram, call: Call, entities: list[Json]) -> None:
    if len(entities) == 2 and len({each["type"] for each in entities}) == 1:
        entities = entities[1:]
    status, answer = await call("sendMessage", chat_id=1, text=TEXT, entities=json.dumps(entities))
    assert status == 200, answer
    seen = [each for each in entities if each["length"] and each["type"] != "mention"]
    assert sorted(answer["result"].get("entities", []), key=str) == sorted(seen, key=str)


@pytest.mark.parametrize(
    ("entities", "description"),
    [
        ([1], "expected an Object"),
        ([of("loud", 0, 1)], "unsupported type"),
        ([{"type": "bold", "offset": 0}], "can't parse MessageEntity"),
        ([of("bold", -1, 2)], "receive an entity with incorrect offset -1"),
        ([of("bold", 0, -2)], "receive an entity with incorrect length -2"),
        ([{"type": "bold", "offset": "0", "length": 2}], 'Field "offset" must be of type Number'),
        ([of("bold", 11, 1)], "entity begins after the end of the text at UTF-16 offset 11"),
        ([of("bold", 10, 2)], "entity beginning at UTF-16 offset 10 ends after the end of the text"),
        ([of("bold", 2, 3)], "entity begins in a middle of a UTF-16 symbol"),
        ([of("bold", 0, 2)], "entity beginning at UTF-16 offset 0 ends in a middle of a UTF-16 symbol"),
        ([of("bold", 0, 4), of("italic", 3, 4)], "italic overlaps bold at 3"),
        ([of("bold", 0, 5), of("code", 3, 1)], "bold can't contain code at 3"),
        ([of("bold", 3, 2), of("pre", 3, 2)], "can't contain"),
        ([of("pre", 0, 5), of("bold", 3, 1)], "pre can't contain bold at 3"),
        ([of("code", 0, 5), of("text_link", 3, 1, url="https://a.bc")], "code can't contain text_link at 3"),
        ([of("text_link", 0, 5, url="https://a.bc"), of("code", 3, 1)], "text_link can't contain code at 3"),
        ([of("blockquote", 0, 5), of("expandable_blockquote", 3, 1)], "can't contain expandable_blockquote"),
        ([of("text_link", 0, 5, url="https://a.bc"), of("blockquote", 3, 1)], "can't contain blockquote"),
        ([of("text_link", 0, 5)], 'Can\'t find field "url"'),
        ([of("text_link", 0, 5, url="#a")], "entity URL host is empty"),
        ([of("text_link", 0, 5, url="http://localhost/a")], "entity Wrong HTTP URL"),
        ([of("text_link", 0, 5, url="ftp://a.bc")], "entity Unsupported URL protocol"),
        ([of("text_link", 0, 5, url="javascript:f(1)")], "entity Wrong port number"),
        ([of("text_link", 0, 5, url="https://a{b}.c")], "entity Disallowed character in URL host"),
        ([of("text_link", 0, 5, url="https://a.bc:99999/")], "entity Wrong port number"),
        ([of("text_link", 0, 5, url="https://a b.c/")], "entity Disallowed character in URL host"),
        ([of("text_link", 0, 5, url="tg://a.b/c")], "entity Wrong tg URL"),
        ([of("text_link", 0, 5, url="tg://user?id=5")], "user 5 not found"),
        ([of("custom_emoji", 1, 2, custom_emoji_id="x")], "custom_emoji_id"),
    ],
)
async def test_what_may_not_be(call: Call, entities: list[Any], description: str) -> None:
    answer = await call("sendMessage", chat_id=1, text=TEXT, entities=json.dumps(entities))
    refused(answer, 400, description)


async def test_space_around_a_text_goes_but_not_within_what_is_marked(call: Call) -> None:
    entities = [of("pre", 2, 5), of("bold", 8, 5)]
    _, answer = await call("sendMessage", chat_id=1, text="\n   x y  bo \n ", entities=json.dumps(entities))
    assert answer["result"]["text"] == "  x y  bo"
    assert answer["result"]["entities"] == [of("pre", 0, 5), of("bold", 6, 3)]


async def test_a_hundred_entities_are_shown_styles_last(call: Call) -> None:
    links = [of("text_link", 2 * n, 1, url="https://a.bc") for n in range(60, 130)]
    styles = [of("bold", 2 * n, 1) for n in range(60)]
    _, answer = await call("sendMessage", chat_id=1, text="x " * 200, entities=json.dumps([*styles, *links]))
    kinds = [each["type"] for each in answer["result"]["entities"]]
    assert (kinds.count("text_link"), kinds.count("bold")) == (70, 30)
