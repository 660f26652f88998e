"""The tea shop's handlers, as a user meets them."""

from bot.runtime.testing import Chat


async def test_its_own_greeting(chat: Chat) -> None:
    assert await chat.say("/start") == ["Welcome to the tea shop. What would you like?"]


async def test_a_button_changes_state(chat: Chat) -> None:
    assert await chat.say("/hours") == ["From nine to five."]
    assert await chat.press("Remind me") == ["I will."]
    assert (await chat.state())["wants_reminder"] is True


async def test_photos_are_counted(chat: Chat) -> None:
    await chat.send_photo(b"...")
    assert await chat.send_photo(b"...") == ["A fine picture.", "That makes 2."]


async def test_people_read_their_language(chat: Chat) -> None:
    assert await chat.send_voice(b"...") == ["I can read text and look at photos."]
    bob = chat.person("Bob", language_code="de")
    assert "/hours - Wann wir offen haben" in "\n".join(await bob.say("/help"))


async def test_a_photo_that_comes_twice_counts_once(chat: Chat) -> None:
    await chat.send_photo(b"...")
    await chat.redeliver()
    assert (await chat.state())["photos"] == 1
