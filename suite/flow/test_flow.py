"""The conversation in steps, over HTTP, in both modes."""

import asyncio

import pytest

from bot.runtime.state.store import OperatorStore
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.flow.example import handlers
from suite.flow.example.steps import ConversationStates
from suite.flow.person import NAME, STYLE, SUMMARY, YEAR, Person
from suite.support.runtime import MakeRuntime, Mode, Runtime

pytestmark = pytest.mark.clause("flow.example")

STICKER = {
    "file_id": "s", "file_unique_id": "s", "type": "regular", "width": 1, "height": 1, "is_animated": False,
    "is_video": False,
}  # fmt: skip

ALL = ["/profile", "Ann", "1990", "[In detail]", "[Yes, save it]"]
PROFILE = {"name": "Ann", "born": 1990, "style": "detailed"}


def step(record_fsm: dict[str, dict[str, object]]) -> object:
    """The step of the only flow there is."""
    ((flow),) = record_fsm.values()
    return flow["state"]


async def test_from_the_first_question_to_the_end(bot: Runtime, ann: Person) -> None:
    await ann.does(*ALL)
    assert ann.sees() == [
        NAME,
        YEAR.format("Ann"),
        STYLE,
        SUMMARY.format("Ann", 1990, "in detail"),
        handlers.SAVED,
    ]
    record = await bot.record(1)
    assert record.state == {"profile": PROFILE}
    assert record.fsm == {}, "of a flow that ended, nothing is left"
    assert ann.alerts() == []
    await ann.does("hi")
    assert ann.sees()[-1] == "Processed: hi (#1)"


async def test_the_result_is_kept_in_the_transaction_of_the_last_step(
    bot: Runtime, ann: Person, telegram: FakeTelegram
) -> None:
    await ann.does(*ALL[:-1])
    before = await bot.record(1)
    assert before.state == {}
    assert step(before.fsm) == ConversationStates.summary.state
    telegram.delay("editMessageText", 30, times=1)
    update_id = ann.presses("Yes, save it")
    async with asyncio.timeout(120):
        while update_id not in (record := await bot.record(1)).applied:
            assert (record.state, record.fsm) == (before.state, before.fsm)
            await asyncio.sleep(0.002)
    assert (record.state, record.fsm) == ({"profile": PROFILE}, {})
    await bot.cut_off()
    assert handlers.SAVED not in ann.sees()
    async with bot:
        await telegram.settled()
    assert ann.sees()[-1] == handlers.SAVED


async def test_an_answer_that_is_refused_changes_nothing(bot: Runtime, ann: Person) -> None:
    await ann.does("/profile")
    before = await bot.record(1)
    ann.says(None, sticker=STICKER)
    await ann.does("/unknown", "x" * 51)
    assert [text[:7] for text in ann.sees()] == [NAME[:7], *["Please "] * 3]
    after = await bot.record(1)
    assert (after.state, after.fsm, after.history) == (before.state, before.fsm, before.history)
    await ann.does("Ann", "soon")
    assert ann.sees()[-1].startswith("Please write the year")
    assert step((await bot.record(1)).fsm) == ConversationStates.step_2.state
    await ann.does("1990")
    assert ann.sees()[-1] == STYLE


async def test_a_question_that_only_a_button_answers(bot: Runtime, ann: Person) -> None:
    await ann.does("/profile", "Ann", "1990", "briefly, please")
    assert ann.sees()[-2:] == [handlers.PRESS_A_BUTTON, STYLE]
    await ann.does("[Briefly]", "yes")
    assert ann.sees()[-2:] == [handlers.PRESS_A_BUTTON, SUMMARY.format("Ann", 1990, "briefly")]
    await ann.does("[Yes, save it]")
    assert (await bot.record(1)).state["profile"]["style"] == "brief"


async def test_back(bot: Runtime, ann: Person) -> None:
    await ann.does("/profile", "Anna", "[Back]", "Ann", "1991", "[Back]", "1990", "[Briefly]", "[Back]")
    assert ann.sees()[-1] == STYLE
    await ann.does("[In detail]", "[Yes, save it]")
    assert (await bot.record(1)).state == {"profile": PROFILE}


@pytest.mark.parametrize("how", ["/cancel", "[Cancel]"])
async def test_cancel_at_any_step(bot: Runtime, ann: Person, how: str) -> None:
    for steps_done in range(1, len(ALL)):
        await ann.does(*ALL[:steps_done], how)
        assert ann.sees()[-1] == handlers.CANCELLED
        assert (await bot.record(1)).is_empty
    await ann.does("/cancel", "hi")
    assert ann.sees()[-2:] == [handlers.NOTHING_TO_CANCEL, "Processed: hi (#1)"]


async def test_commands_work_in_mid_flow(bot: Runtime, ann: Person) -> None:
    await ann.does("/profile", "/help")
    assert "/profile - " in ann.sees()[-1]
    assert step((await bot.record(1)).fsm) == ConversationStates.step_1.state
    await ann.does("Ann", "/reset", "hi")
    assert ann.sees()[-1] == "Processed: hi (#1)"
    assert (await bot.record(1)).fsm == {}


@pytest.mark.parametrize(("steps_done", "button"), [(3, "In detail"), (3, "Back"), (4, "Yes, save it")])
async def test_a_button_pressed_twice(bot: Runtime, ann: Person, steps_done: int, button: str) -> None:
    """Twice by a nervous thumb, which makes two updates, and the first delivered twice by Telegram."""
    await ann.does(*ALL[:steps_done])
    shown = len(ann.sees())
    first = ann.presses(button)
    ann.presses(button)
    await ann.telegram.settled()
    ann.telegram.repeat(first)
    await ann.telegram.settled()
    assert len(ann.sees()) == shown + 1
    assert ann.alerts() == [handlers.NOT_OPEN]


async def test_the_buttons_of_an_earlier_run_are_dead(bot: Runtime, ann: Person) -> None:
    await ann.does("/profile", "Bob", "1950", "[Briefly]")
    old = ann.last()
    await ann.does("/cancel", *ALL[:-1])
    ann.presses("Yes, save it", sent=old)
    await ann.telegram.settled()
    assert ann.alerts() == [handlers.NOT_OPEN]
    assert (await bot.record(1)).state == {}
    await ann.does("[Yes, save it]")
    assert (await bot.record(1)).state == {"profile": PROFILE}


async def test_a_button_under_a_message_that_is_gone(bot: Runtime, ann: Person) -> None:
    """Telegram then tells where it was, and does not let it be changed."""
    await ann.does(*ALL[:-1])
    del ann.telegram.messages[1, ann.last().message_id]
    data = handlers.Press(run=1, step=ConversationStates.summary.state or "", what="save").pack()
    ann.telegram.callback(data, user_id=1, message=999)
    await ann.telegram.settled()
    assert ann.telegram.texts(1)[-1] == handlers.SAVED
    assert (await bot.record(1)).state == {"profile": PROFILE}


async def test_two_people_in_one_group(bot: Runtime, telegram: FakeTelegram) -> None:
    ann, bob = Person(telegram, 1, -100), Person(telegram, 2, -100)
    await ann.does("/profile", "Ann", "1990")
    of_ann = ann.last()
    await bob.does("/profile", "Bob", "1950")
    bob.presses("In detail", sent=of_ann)
    await telegram.settled()
    assert bob.alerts() == [handlers.NOT_OPEN]
    assert step((await bot.record(2)).fsm) == ConversationStates.step_3.state
    ann.presses("In detail", sent=of_ann)
    await telegram.settled()
    await ann.does("[Yes, save it]")
    assert (await bot.record(1)).state == {"profile": PROFILE}
    assert (await bot.record(2)).state == {}


async def test_one_person_in_two_chats(bot: Runtime, telegram: FakeTelegram) -> None:
    private, group = Person(telegram, 1), Person(telegram, 1, -100)
    await private.does("/profile", "Ann")
    await group.does("/profile", "Annie", "1991", "[Briefly]")
    assert len((await bot.record(1)).fsm) == 2
    await private.does("1990", "[In detail]", "[Yes, save it]")
    record = await bot.record(1)
    assert record.state == {"profile": PROFILE}
    assert step(record.fsm) == ConversationStates.summary.state
    await group.does("[Yes, save it]")
    record = await bot.record(1)
    assert record.state == {"profile": {"name": "Annie", "born": 1991, "style": "brief"}}
    assert record.fsm == {}


async def test_one_person_in_two_topics_of_a_forum(bot: Runtime, telegram: FakeTelegram) -> None:
    seven, nine, general = (Person(telegram, 1, -100, topic) for topic in (7, 9, None))
    await seven.does("/profile", "Ann")
    await nine.does("/profile", "Annie")
    await general.does("hi")
    await seven.does("1990", "[In detail]")
    await nine.does("1991")
    assert general.sees() == ["Processed: hi (#1)"]
    assert seven.sees()[-1] == SUMMARY.format("Ann", 1990, "in detail")
    assert nine.sees() == [NAME, YEAR.format("Annie"), STYLE]
    await seven.does("[Yes, save it]")
    record = await bot.record(1)
    assert record.state["profile"] == PROFILE
    assert step(record.fsm) == ConversationStates.step_3.state


async def test_forget_in_mid_flow_leaves_nothing(bot: Runtime, ann: Person, telegram: FakeTelegram) -> None:
    group = Person(telegram, 1, -100)
    await group.does("/profile", "Annie")
    await ann.does(*ALL[:-1])
    summary = ann.last()
    await ann.does("/forget", "[Erase everything]")
    record = await bot.record(1)
    assert record.is_empty
    assert record.forgotten
    assert "Ann" not in await bot.store.raw("1")
    ann.presses("Yes, save it", sent=summary)
    await telegram.settled()
    assert ann.alerts() == [handlers.NOT_OPEN]
    assert (await bot.record(1)).is_empty
    await group.does("1990")
    assert group.sees()[-1] == "Processed: 1990 (#1)"


async def test_who_stops_half_way_is_let_go_after_a_while(
    make_runtime: MakeRuntime, ann: Person, mode: Mode
) -> None:
    async with make_runtime(mode, fsm_ttl=1) as bot:
        await ann.does("/profile", "Ann", "1990")
        old = ann.last()
        await asyncio.sleep(1.1)
        ann.presses("Briefly", sent=old)
        await ann.telegram.settled()
        assert ann.alerts() == [handlers.NOT_OPEN]
        await ann.does("hi")
        assert ann.sees()[-1] == "Processed: hi (#1)"
        assert (await bot.record(1)).fsm == {}, "step and data"
        await ann.does(*ALL)
        assert (await bot.record(1)).state["profile"] == PROFILE


async def test_every_step_puts_the_end_off(make_runtime: MakeRuntime, ann: Person) -> None:
    async with make_runtime("polling", fsm_ttl=2) as bot:
        for text in ALL:
            await ann.does(text)
            await asyncio.sleep(0.7)
        assert (await bot.record(1)).state == {"profile": PROFILE}


async def test_a_record_expires_with_step_and_data(
    bot: Runtime, ann: Person, harness: Harness, store: OperatorStore
) -> None:
    await ann.does("/profile", "Ann")
    await harness.expire("1")
    assert (await store.load("1")).is_empty
    await ann.does("hi")
    assert ann.sees()[-1] == "Processed: hi (#1)"


async def test_message_and_button_at_the_same_moment_on_two_replicas(
    make_runtime: MakeRuntime, telegram: FakeTelegram
) -> None:
    """Telegram keeps messages and pressed buttons in queues of their own, so both are under way at once."""
    async with (
        FakeTelegram(token=telegram.token, max_retry_after=0.1) as elsewhere,
        make_runtime("webhook") as bot,
    ):
        other = make_runtime("webhook")
        other.telegram, other.settings.telegram_api_url = elsewhere, elsewhere.url
        async with other:
            people = [Person(telegram, user_id) for user_id in range(1, 21)]
            await asyncio.gather(*(person.does("/profile", "Ann") for person in people))
            elsewhere.next_update_id = telegram.next_update_id + 1_000
            elsewhere.messages.update(telegram.messages)
            for person in people:
                person.says("1990")
                Person(elsewhere, person.user_id).presses("Back", sent=person.last())
            await telegram.settled()
            await elsewhere.settled()
        for person in people:
            record = await bot.record(person.user_id)
            (flow,) = record.fsm.values()
            said, shown = person.sees()[-1], [s.text for s in elsewhere.sent if s.chat_id == person.chat_id]
            data = {key: value for key, value in flow["data"].items() if key != "run"}
            if flow["state"] == ConversationStates.step_3.state:
                assert data == {"name": "Ann", "born": 1990}, "the message came first"
                assert (said, shown) == (STYLE, [handlers.NOT_OPEN])
            else:
                assert flow["state"] == ConversationStates.step_2.state
                assert data == {"name": "1990"}, "the button came first"
                assert said == YEAR.format("1990")
                assert shown[0] == NAME
