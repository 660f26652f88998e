"""Markdown of models: rendered when it is sent, never refused for its markup, and without a word lost."""

import html
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiogram import Bot
from aiogram.client.telegram import TelegramAPIServer
from aiogram.methods import AnswerGuestQuery, SendMessage, SendPhoto, TelegramMethod
from aiogram.types import (
    BufferedInputFile,
    InlineQueryResultArticle,
    InputTextMessageContent,
)
from hypothesis import given
from hypothesis import strategies as st

from bot.agent_adapter import TelegramAgentAdapter, job
from bot.runtime.chat import _Screen
from bot.runtime.errors import OperatorError
from bot.runtime.telegram.calls import MARKDOWN, Reply, Session, prepare, split_reply, split_text
from bot.runtime.telegram.markdown import render
from bot.runtime.telegram.outbox import send
from suite.bot_api import FakeTelegram
from suite.bot_api.call import words
from suite.bot_api.text import shown, utf16_length
from suite.durability.test_restart import committed
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("outbox.markdown")

ANSWERS = {file.stem: file.read_text("utf-8") for file in Path(__file__).parents[1].glob("answers/*.md")}
"""Answers as models write them, made for these tests."""

Json = dict[str, Any]


class Echo(TelegramAgentAdapter):
    """Answers with the message, which is Markdown to it."""

    format = "markdown"

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        if message.startswith("tell "):
            await self.send(self.turn.user_id, message.removeprefix("tell "))
            return ""
        if message.startswith("later "):
            self.turn.later(timedelta(0), self.remind, text=message.removeprefix("later "))
            return ""
        return ANSWERS.get(message, message)

    @job
    async def remind(self, text: str) -> str:
        """Say what was asked for."""
        return text


@pytest.fixture
async def bot(telegram: FakeTelegram) -> AsyncIterator[Bot]:
    session = Session(api=TelegramAPIServer.from_base(telegram.url))
    async with Bot(telegram.token, session=session) as bot:
        yield bot


def as_markdown(text: str, **options: Any) -> SendMessage:
    return SendMessage(chat_id=1, text=text, parse_mode=MARKDOWN, **options)


async def parts_of(method: TelegramMethod[Any]) -> list[Reply]:
    """The calls that a method takes, each as Telegram would show it."""
    parts = split_reply(await prepare(Bot("42:TEST"), method))
    for part in parts:
        name = "text" if "text" in part.params else "caption"
        mark = "entities" if name == "text" else "caption_entities"
        entities = json.loads(part.params.get(mark, "[]"))
        text, seen = shown(part.params[name], part.params.get("parse_mode", ""), entities)
        assert 0 < utf16_length(text) <= (4096 if name == "text" else 1024)
        assert len(seen) == len([entity for entity in entities if entity["offset"] < utf16_length(text)])
    return parts


def letters(text: str) -> Counter[str]:
    return Counter(char for char in text if char.isalnum())


def lost(source: str, texts: Sequence[tuple[str, list[Json]]]) -> Counter[str]:
    """The letters and digits of a source that nobody gets: Markdown is told by other signs.

    An address may stand in an entity and a tick in place of an x; nobody sees a link's title.
    """
    needed = re.sub(r'(\]\([^\s)]*) "[^"\n]*"\)', r"\1)", html.unescape(source))
    needed = re.sub(r"([-*+]|\d[.)])( +)\[[xX]\](?!\w)", r"\1\2", needed)
    seen = "".join(text for text, _ in texts)
    for entity in (entity for _, entities in texts for entity in entities):
        address = entity.get("url", "") + unquote(entity.get("url", ""))
        seen += re.sub(r"xn--[\w-]+", lambda host: host[0].encode().decode("idna"), address)
        seen += entity.get("language", "")
    return letters(needed) - letters(seen)


def marked(source: str) -> list[tuple[str, str]]:
    """What is marked in a text, in order."""
    text, entities = render(source)
    units = text.encode("utf-16-le")
    return [
        (each["type"], units[2 * each["offset"] : 2 * (each["offset"] + each["length"])].decode("utf-16-le"))
        for each in entities
    ]


def test_there_are_enough_answers() -> None:
    assert len(ANSWERS) >= 40


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_every_prefix_of_an_answer_is_taken_whole(name: str) -> None:
    for end in range(1, len(ANSWERS[name]) + 1):
        source = ANSWERS[name][:end]
        if source.strip():
            text, entities = render(source)
            seen = shown(text, "", entities)
            assert seen == (text, entities), source
            assert not lost(source, [seen]), source


@pytest.mark.rarely
@pytest.mark.parametrize("name", sorted(ANSWERS))
async def test_every_prefix_arrives(telegram: FakeTelegram, bot: Bot, name: str) -> None:
    for end in range(1, len(ANSWERS[name]) + 1):
        source = ANSWERS[name][:end]
        if source.strip():
            await send(bot, await prepare(bot, as_markdown(source)))
            assert telegram.calls[-1].status == 200, source
    assert [call.status for call in telegram.calls if call.status != 200] == []


async def test_all_answers_arrive(make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
    async with make_runtime(mode, agent_class=Echo) as bot:
        for number, name in enumerate(sorted(ANSWERS), start=1):
            telegram.message(name, user_id=number)
        await telegram.settled()
        for number, name in enumerate(sorted(ANSWERS), start=1):
            (message,) = [
                each
                for (chat, _), each in telegram.messages.items()
                if chat == number and each["from"]["is_bot"]
            ]
            if rich := message.get("rich_message"):
                assert not lost(ANSWERS[name], [(json.dumps(rich, ensure_ascii=False), [])])
            else:
                assert (message["text"], message.get("entities", [])) == render(ANSWERS[name])
            assert (await bot.record(number)).history[-1].text == ANSWERS[name]
    sent = [call for call in telegram.calls if call.method.startswith("send")]
    assert {call.status for call in sent if "parse_mode" not in call.params} == {200}
    assert any(call.method == "sendRichMessage" for call in sent)
    assert all("parse_mode" not in call.params for call in sent)


PIECES = [
    *sorted(words("** * _ __ ~~ || | ` ``` $ $$ [ ]( ) ](https://a.bc) ![ > \\ &amp; <b> # - 1. [x] |-|-|")),
    *sorted(words("ש 中 é 👨‍👩‍👧 a b_c ---")),
    *(" ", "  ", "\n", "\n\n", "    ", "\t", "\r", "| a | b |\n|-|-|\n"),
]
"""What Markdown is made of."""


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_whatever_comes_is_taken_whole(pieces: list[str]) -> None:
    source = "".join(pieces)
    if source.strip():
        text, entities = render(source)
        assert not lost(source, [shown(text, "", entities)])


@pytest.mark.parametrize(
    ("source", "text", "kinds"),
    [
        ("# A *b*", "A b", [("bold", "A b"), ("underline", "A b"), ("italic", "b")]),
        ("### A", "A", [("bold", "A")]),
        ("**a `b` c**", "a b c", [("bold", "a "), ("code", "b"), ("bold", " c")]),
        ("*a **b** c*", "a b c", [("italic", "a b c"), ("bold", "b")]),
        ("~~a~~ ||b *c*||", "a b c", [("strikethrough", "a"), ("spoiler", "b c"), ("italic", "c")]),
        ("a || b || c, f(a||b||c)", "a || b || c, f(a||b||c)", []),
        ("snake_case_name __init__ 2*3*4", "snake_case_name __init__ 2*3*4", []),
        ("[`a` b](https://c.de)", "a b", [("text_link", "a b")]),
        ("![a](https://b.cd/e.png)", "a", [("text_link", "a")]),
        ("[a](b/c.md) [d](mailto:e@f.gh)", "a (b/c.md) d (mailto:e@f.gh)", []),
        ("<https://a.bc> [](https://d.ef)", "https://a.bc https://d.ef", []),
        ("<b>a</b> &amp; &lt;", "<b>a</b> & <", []),
        ("$a_1*b*c_2$ \\(x\\) \\[y\\]", "$a_1*b*c_2$ \\(x\\) \\[y\\]", []),
        ("$$\na\n- b\n$$\nc", "$$\na\n- b\n$$\nc", []),
        ("from $5 *to* $6", "from $5 to $6", [("italic", "to")]),
        ("- a\n  1. b\n     - c\n- d", "• a\n  1. b\n    ▪ c\n• d", []),
        ("3. a\n\n4. b", "3. a\n\n4. b", []),
        ("- [ ] a\n- [x] b\n1. [ ] c", "☐ a\n☑ b\n1. ☐ c", []),
        ("> a\n> > b\n\nc", "a\n> b\n\nc", [("blockquote", "a\n> b")]),
        ("> `a`", "a", [("blockquote", "a"), ("code", "a")]),
        ("a\n---\nb", "a\n———\nb", []),
        ("```py\na\n\tb\n```", "a\n    b", [("pre", "a\n    b")]),
        ("- a\n  ```\n  b\n  ```", "• a\nb", [("pre", "b")]),
        ("```js app.js\na", "app.js\na", [("pre", "a")]),
        ("```py", "```py", []),
        (
            "| a | bb |\n|--:|:-:|\n| ccc | d |",
            "  a | bb\n----+---\nccc | d",
            [("pre", "  a | bb\n----+---\nccc | d")],
        ),
        ("|a|b|\n|-|-|\n|c|d|e|", "a | b\n--+------\nc | d | e", [("pre", "a | b\n--+------\nc | d | e")]),
        ("|日本|b|\n|-|-|\n|c|d|", "日本 | b\n-----+--\nc    | d", [("pre", "日本 | b\n-----+--\nc    | d")]),
        ("**half `open", "**half `open", []),
        ("[1]: https://a.bc", "[1]: https://a.bc", []),
        ("👩 **👩b** é", "👩 👩b é", [("bold", "👩b")]),
        ("**שלום** *עולם*", "שלום עולם", [("bold", "שלום"), ("italic", "עולם")]),
        ("#", "#", []),
        ("- " * 900 + "a", "- " * 900 + "a", []),
    ],
)
def test_as_it_is_shown(source: str, text: str, kinds: list[tuple[str, str]]) -> None:
    assert render(source)[0] == text
    assert marked(source) == kinds


def test_code_keeps_its_language_and_a_link_its_address() -> None:
    assert render("```c++\na\n```")[1] == [{"type": "pre", "offset": 0, "length": 1, "language": "c++"}]
    (link,) = render("[a](https://b.cd/ü?e=f&g)")[1]
    assert link["url"] == "https://b.cd/%C3%BC?e=f&g"


async def test_long_code_is_cut_between_lines_and_opened_again() -> None:
    lines = [f"    line_{number} = {number}" for number in range(600)]
    code = "\n".join(lines)
    first, *rest = await parts_of(as_markdown(f"Here it is:\n\n```python\n{code}\n```\n\nThat is *all*."))
    seen = [line for part in (first, *rest) for line in part.params["text"].split("\n")]
    assert seen == ["Here it is:", "", *lines, "", "That is all."]
    for part in (first, *rest):
        assert '"language":"python"' in part.params["entities"]
    assert "italic" in rest[-1].params["entities"]


async def test_code_that_fits_into_a_message_is_not_cut() -> None:
    words = "word " * 600
    code = "\n".join(["x = 1"] * 300)
    parts = await parts_of(as_markdown(f"{words}\n\n```py\n{code}\n```\n\n{words}"))
    (whole,) = [part for part in parts if "entities" in part.params]
    assert whole.params["text"].count("x = 1") == 300


async def test_no_row_of_a_long_table_is_cut() -> None:
    rows = [f"| {number} | {'w ' * 12}|" for number in range(300)]
    parts = await parts_of(as_markdown("\n".join(["| a | b |", "|---|---|", *rows])))
    assert len(parts) > 1
    lines = [line for part in parts for line in part.params["text"].split("\n")]
    assert [line.split(" | ")[0].strip() for line in lines[2:]] == [str(number) for number in range(300)]
    assert all(part.params["entities"].count('"pre"') == 1 for part in parts)


@pytest.mark.parametrize("char", ["👨‍👩‍👧‍👦", "e\u0301\u0323", "🇩🇪", "क्ष", "한"])
async def test_what_people_see_as_one_character_is_not_cut(char: str) -> None:
    for pad in range(3):
        parts = await parts_of(as_markdown("x" * pad + char * 1500))
        assert "".join(part.params["text"] for part in parts) == "x" * pad + char * 1500
        for part in parts[1:]:
            assert part.params["text"].startswith(char)


async def test_a_message_has_a_hundred_entities_and_no_more() -> None:
    source = "\n".join(f"- **{number}** [x](https://e.com/{number})" for number in range(170))
    parts = await parts_of(as_markdown(source))
    entities = [json.loads(part.params["entities"]) for part in parts]
    assert all(len(each) <= 100 for each in entities)
    assert sum(map(len, entities)) == 340
    assert [each["url"] for some in entities for each in some if "url" in each] == [
        f"https://e.com/{number}" for number in range(170)
    ]


async def test_quotes_links_and_styles_go_on_in_the_next_message() -> None:
    parts = await parts_of(as_markdown(f"> **{'word ' * 1200}**\n> [{'link ' * 1000}](https://a.bc)"))
    assert len(parts) > 2
    for part in parts:
        assert "blockquote" in part.params["entities"]
    joined = " ".join(part.params["text"] for part in parts)
    assert (joined.count("word"), joined.count("link")) == (1200, 1000)


async def test_a_caption_is_cut_after_it_is_rendered() -> None:
    caption = "**a** " * 300
    photo = BufferedInputFile(b"x", "a.png")
    short = SendPhoto(chat_id=1, photo=photo, caption="**a** " * 40, parse_mode=MARKDOWN)
    assert len(await parts_of(short)) == 1
    first, *rest = await parts_of(SendPhoto(chat_id=1, photo=photo, caption=caption, parse_mode=MARKDOWN))
    assert first.method == "sendPhoto"
    assert {part.method for part in rest} == {"sendMessage"}
    bold = [
        part.params.get("caption_entities", "") + part.params.get("entities", "") for part in (first, *rest)
    ]
    assert sum(each.count("bold") for each in bold) == 300


async def test_a_guests_answer_is_rendered() -> None:
    content = InputTextMessageContent(message_text="**a** [b](https://c.de)", parse_mode=MARKDOWN)
    result = InlineQueryResultArticle(id="1", title="a", input_message_content=content)
    (call,) = split_reply(await prepare(Bot("42:TEST"), AnswerGuestQuery(guest_query_id="1", result=result)))
    made = json.loads(call.params["result"])["input_message_content"]
    assert made["message_text"] == "a b"
    assert [each["type"] for each in made["entities"]] == ["bold", "text_link"]
    assert "parse_mode" not in made


@pytest.mark.parametrize(
    "reason",
    [
        "Bad Request: can't parse entities: bold overlaps italic at 3",
        "Bad Request: entity Wrong HTTP URL",
        "Bad Request: entity begins in a middle of a UTF-16 symbol at byte offset 7",
        "Bad Request: ENTITY_BOUNDS_INVALID",
        "Bad Request: receive an entity with incorrect offset 5",
    ],
)
async def test_what_is_refused_is_sent_plain_with_its_addresses(
    telegram: FakeTelegram, bot: Bot, reason: str
) -> None:
    telegram.fail("sendMessage", status=400, description=reason)
    source = "**a** [b 👩](https://c.de/f) *d* https://e.fg"
    await send(bot, await prepare(bot, as_markdown(source)))
    assert telegram.texts(1) == ["a b 👩 (https://c.de/f) d https://e.fg"]
    assert "entities" not in telegram.calls[-1].params


WIDE = "Look:\n\n| a | b |\n|:-:|--:|\n| **c** | [d](https://e.fg) |\n\n- [x] h\n\n```py\ni\n```\n> j\n\n1. k"


async def test_a_table_with_more_than_text_in_it_is_a_rich_message(telegram: FakeTelegram, bot: Bot) -> None:
    await send(bot, await prepare(bot, as_markdown(WIDE, protect_content=True)))
    (call,) = telegram.calls
    assert (call.method, call.status) == ("sendRichMessage", 200)
    assert call.params["protect_content"] == "true"
    (message,) = telegram.messages.values()
    blocks = message["rich_message"]["blocks"]
    assert [block["type"] for block in blocks] == ["paragraph", "table", "list", "pre", "blockquote", "list"]
    (_, row) = blocks[1]["cells"]
    assert row[0] == {"text": [{"type": "bold", "text": "c"}], "align": "center", "valign": "middle"}
    assert row[1]["text"] == [{"type": "url", "text": "d", "url": "https://e.fg"}]


async def test_tables_that_entities_show_as_well_are_ordinary_messages(
    telegram: FakeTelegram, bot: Bot
) -> None:
    await send(bot, await prepare(bot, as_markdown(ANSWERS["table"])))
    await send(bot, await prepare(bot, as_markdown("| a |\n|---|\n" + "| b |\n" * 600 + "**c** | d")))
    await send(
        bot, await prepare(bot, as_markdown("|a" * 21 + "|\n" + "|-" * 21 + "|\n" + "|**b**" * 21 + "|"))
    )
    assert {call.method for call in telegram.calls} == {"sendMessage"}


async def test_a_server_without_rich_messages_is_asked_once(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.fail("sendRichMessage", status=404, description="Not Found: method not found", times=5)
    for _ in range(2):
        await send(bot, await prepare(bot, as_markdown(WIDE)))
    methods = [call.method for call in telegram.calls]
    assert methods == ["sendRichMessage", "sendMessage", "sendMessage"]
    assert "d (https://e.fg)" in telegram.texts(1)[-1]


async def test_a_rich_message_that_is_refused_is_sent_as_text(telegram: FakeTelegram, bot: Bot) -> None:
    telegram.fail("sendRichMessage", status=400, description="Bad Request: RICH_MESSAGE_INVALID")
    for _ in range(2):
        await send(bot, await prepare(bot, as_markdown(WIDE)))
    methods = [call.method for call in telegram.calls]
    assert methods == ["sendRichMessage", "sendMessage", "sendRichMessage"]


async def test_history_and_outbox_keep_the_markdown(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    bot = await make_runtime(mode, agent_class=Echo).start()
    telegram.delay("sendMessage", 30, times=1)
    update_id = telegram.message("**a** [b](https://c.de)", user_id=1)
    record = await committed(bot, 1, update_id)
    (reply,) = record.outbox[update_id].replies
    assert reply["params"]["text"] == "**a** [b](https://c.de)"
    assert "entities" not in reply["params"]
    await bot.cut_off()
    assert telegram.texts(1) == []
    async with bot:
        await telegram.settled()
    assert telegram.texts(1) == ["a b"]
    (sent,) = [call for call in telegram.calls if call.method == "sendMessage" and call.status == 200]
    kinds = [each["type"] for each in json.loads(sent.params["entities"])]
    assert kinds == ["bold", "text_link"]
    record = await bot.record(1)
    assert [each.text for each in record.history] == ["**a** [b](https://c.de)"] * 2


async def test_what_is_told_is_markdown_too_and_other_texts_are_not(
    make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode
) -> None:
    async with make_runtime(mode, agent_class=Echo) as bot:
        telegram.message("tell **a**", user_id=1)
        await telegram.settled()
        telegram.message("later `j`", user_id=2)
        await telegram.wait_for(lambda: telegram.texts(2))
        await bot.agent.send("1", "*b*")
        await bot.agent.send("1", SendMessage(chat_id=1, text="**c**"))
    assert telegram.texts(1) == ["a", "b", "**c**"]
    assert telegram.texts(2) == ["j"]


async def test_plain_is_plain(make_runtime: MakeRuntime, telegram: FakeTelegram, mode: Mode) -> None:
    async with make_runtime(mode):
        telegram.message("**a**", user_id=1)
        await telegram.settled()
    assert telegram.texts(1) == ["Processed: **a** (#1)"]


async def test_an_unknown_format_is_refused_at_start(make_runtime: MakeRuntime) -> None:
    class Wrong(Echo):
        format = "html"  # type: ignore[assignment]

    with pytest.raises(OperatorError, match=r"Agent\.format is 'html': it has to be one of these"):
        await make_runtime("polling", agent_class=Wrong).start()


async def test_a_terminal_shows_text_and_addresses() -> None:
    lines: list[str] = []
    (call,) = await parts_of(as_markdown("# A\n- **b** [c](https://d.ef)"))
    _Screen(lines.append).watch(call, None)
    assert lines == ["A\n• b c (https://d.ef)"]


def test_a_long_answer_takes_little_time() -> None:
    source = "".join(ANSWERS.values()) * 4
    began = time.thread_time()
    text, entities = render(source)
    pieces = list(split_text(text, entities=entities, most=100))
    assert time.thread_time() - began < 2
    assert "".join("".join(piece for _, piece in pieces).split()) == "".join(text.split())
