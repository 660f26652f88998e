"""What becomes of every kind of update and of content: the table that the documentation shows.

`behaviour/test_what_comes_in.py` sends all of it to running bots, and compares.
"""

from collections.abc import Iterable
from typing import NamedTuple

AGENT = "agent"
AGENT_OR_WORDS = "agent, or `only_text`"
AGENT_OR_NOTHING = "agent, or nothing"
ROUTERS = "your routers"
NOTHING = "nothing"
HOOK = "`on_unknown`, your routers"

WAYS = (
    "private",
    "group or topic, addressed",
    "group or topic, not addressed",
    "channel",
    "business",
    "guest",
)
"""Where a message comes from: the columns."""


class Content(NamedTuple):
    """What becomes of some kinds of messages, by where they come from, in the order of `WAYS`."""

    what: str
    kinds: str
    outcomes: tuple[str, ...]


SAID = (AGENT_OR_WORDS, AGENT_OR_WORDS, NOTHING, ROUTERS, AGENT_OR_NOTHING, AGENT_OR_WORDS)
TOLD = (ROUTERS,) * 6

CONTENT = (
    Content("text", "text", (AGENT, AGENT, NOTHING, ROUTERS, AGENT, AGENT)),
    Content(
        "files",
        "animation audio document live_photo paid_media photo sticker video video_note voice",
        SAID,
    ),
    Content(
        "what else people send",
        """chat_shared checklist contact dice game giveaway invoice location passport_data poll rich_message
        story user_shared users_shared venue web_app_data""",
        SAID,
    ),
    Content("money", "successful_payment refunded_payment", TOLD),
    Content(
        "what Telegram tells",
        """boost_added channel_chat_created chat_background_set chat_owner_changed chat_owner_left
        checklist_tasks_added checklist_tasks_done community_chat_added community_chat_joined
        community_chat_removed connected_website delete_chat_photo direct_message_price_changed
        forum_topic_closed forum_topic_created forum_topic_edited forum_topic_reopened
        general_forum_topic_hidden general_forum_topic_unhidden gift gift_upgrade_sent giveaway_completed
        giveaway_created giveaway_winners group_chat_created left_chat_member managed_bot_created
        message_auto_delete_timer_changed migrate_from_chat_id migrate_to_chat_id new_chat_members
        new_chat_photo new_chat_title paid_message_price_changed pinned_message poll_option_added
        poll_option_deleted proximity_alert_triggered suggested_post_approval_failed suggested_post_approved
        suggested_post_declined suggested_post_paid suggested_post_refunded supergroup_chat_created
        unique_gift video_chat_ended video_chat_participants_invited video_chat_scheduled video_chat_started
        write_access_allowed""",
        TOLD,
    ),
    Content("what aiogram does not know", "unknown", (HOOK,) * 6),
)


class Update(NamedTuple):
    """What becomes of a kind of update, and whether Telegram is asked for it without a router of yours."""

    kinds: str
    is_asked: str
    outcome: str


YES, NO = "yes", "with a handler for it"

UPDATES = (
    Update("message", YES, "as the table of messages says"),
    Update("edited_message", "with `edited` in `accepts`, or a handler", "agent, or your routers"),
    Update("business_message", "with `business` in `accepts`, or a handler", "as the table of messages says"),
    Update("edited_business_message", "with both, or a handler", "agent, or your routers"),
    Update("guest_message", "with `guest` in `accepts`, or a handler", "as the table of messages says"),
    Update("stopped_message_generation", YES, "it stops the answer that is shown"),
    Update("callback_query", YES, "your routers; the button stops spinning in any case"),
    Update(
        "pre_checkout_query shipping_query inline_query",
        NO,
        "your routers, at once; nothing can be kept",
    ),
    Update(
        """channel_post edited_channel_post business_connection deleted_business_messages message_reaction
        message_reaction_count chosen_inline_result purchased_paid_media poll poll_answer my_chat_member
        chat_member chat_join_request chat_boost removed_chat_boost managed_bot subscription""",
        NO,
        ROUTERS,
    ),
)


def content_table() -> str:
    """The table of messages, in Markdown."""
    rows = [(f"{row.what}: {_codes(row.kinds.split())}", *row.outcomes) for row in CONTENT]
    return _table(("", *WAYS), rows)


def update_table() -> str:
    """The table of updates, in Markdown."""
    rows = [(_codes(row.kinds.split()), row.is_asked, row.outcome) for row in UPDATES]
    return _table(("update", "Telegram is asked for it", "what handles it"), rows)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [tuple(head), *map(tuple, rows)]
    cells.insert(1, ("---",) * len(cells[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


if __name__ == "__main__":
    print(content_table())
    print(update_table())
