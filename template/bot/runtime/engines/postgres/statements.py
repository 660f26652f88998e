"""The SQL of the PostgreSQL engine: one statement to load a record and one to commit to it.

`user_state` has one row per user. Every commit updates that row, so its lock and its `version` are all that
is needed against concurrent writers. `user_message` has one row per message, and `user_talk` one per message
of further conversations, numbered in each; the user's row says which numbers count: from `first_message` up
to, but not including, `next_message` or, for further conversations, the first two numbers that
`conversations` has under their names. `user_file` has one row per part of a file of a reply, as long as the
reply waits in the outbox.

`due` says in microseconds since 1970 when a record has something to do, or 0, and `claims` how often that was
begun. Only the rows of which there is something to do are in the index of it.
"""

from bot.runtime.state.store import APPLIED_LIMIT, FILE_SECONDS, FORGOTTEN_SECONDS

_LIVE = "(u.expires_at IS NULL OR u.expires_at > now())"
_IS_MARKER = """(
    forgotten > 0 AND first_message = next_message AND conversations = '{}' AND state = '{}' AND fsm = '{}'
)"""

_COLUMNS = """
    created_at, updated_at, version, token, state, fsm, applied, outbox, marks, forgotten,
    first_message, next_message, conversations, due, claims, expires_at
"""

_NOW = "(extract(epoch FROM now()) * 1000000)::bigint"
"""The server's time in microseconds since 1970."""

_NOTHING = """
    SELECT now() AS created_at, 0::bigint AS version, '{}'::jsonb AS state, '{}'::jsonb AS fsm,
        '{}'::bigint[] AS applied, '{}'::jsonb AS outbox, '{}'::jsonb AS marks, 0::bigint AS forgotten,
        1::bigint AS first_message, 1::bigint AS next_message, '{}'::jsonb AS conversations,
        0::bigint AS due, 0 AS claims, NULL::timestamptz AS expires_at
"""
"""What a record is before its first commit."""


def _committed(before: str, *, with_conversations: bool) -> str:
    """A SELECT of `_COLUMNS` as they are after a commit to the row that the SELECT `before` gives.

    Parameters: $1 user, $2 expected version, $3 token, $4 and $5 state set and removed, $6 and $7 flows,
    $8, $9 and $10 roles, texts and times of messages, $11 clear the history, $12 how many messages to keep,
    $13 applied ids, $14 and $15 outbox set and removed, $16 forget, $17 time to live, $18 and $19 marks,
    $21 when it is due; with further conversations $23 and $24 what is noted of them.
    """
    conversations = "(conversations - $24::text[]) || $23::jsonb" if with_conversations else "conversations"
    return f"""
    SELECT
        created_at, now(), version, $3::text, state, fsm, applied,
        CASE WHEN outbox = '{{}}' THEN outbox ELSE (
            SELECT coalesce(jsonb_object_agg(key, value), '{{}}')
            FROM jsonb_each(outbox) WHERE key::bigint = ANY (applied) OR marks ? key
        ) END,
        marks, forgotten, first_message, next_message, conversations, due, claims,
        CASE
            WHEN {_IS_MARKER} THEN now() + interval '{FORGOTTEN_SECONDS} seconds'
            ELSE greatest(now(), to_timestamp(due / 1e6)) + $17::interval
        END
    FROM (
        SELECT
            created_at, version,
            (state - $5::text[]) || $4::jsonb AS state,
            (fsm - $7::text[]) || $6::jsonb AS fsm,
            (applied || $13::bigint[])[
                greatest(cardinality(applied) + cardinality($13) - {APPLIED_LIMIT - 1}, 1):
            ] AS applied,
            (outbox - $15::text[]) || $14::jsonb AS outbox,
            (marks - $19::text[]) || $18::jsonb AS marks,
            CASE WHEN $16::boolean THEN version ELSE forgotten END AS forgotten,
            greatest(first_message, next_message + cardinality($8::text[]) - $12::bigint) AS first_message,
            next_message + cardinality($8) AS next_message,
            {conversations} AS conversations,
            coalesce($21::bigint, due) AS due,
            CASE WHEN $21 IS NULL THEN claims ELSE 0 END AS claims
        FROM (
            SELECT
                CASE WHEN is_new THEN now() ELSE created_at END AS created_at,
                greatest(version + 1, {_NOW}) AS version,
                CASE WHEN is_new THEN '{{}}' ELSE state END AS state,
                CASE WHEN is_new THEN '{{}}' ELSE fsm END AS fsm,
                CASE WHEN has_expired THEN '{{}}' ELSE applied END AS applied,
                CASE WHEN is_new THEN '{{}}' ELSE outbox END AS outbox,
                CASE WHEN has_expired THEN '{{}}' ELSE marks END AS marks,
                CASE WHEN has_expired THEN 0 ELSE forgotten END AS forgotten,
                CASE WHEN is_new OR $11::boolean THEN next_message ELSE first_message END AS first_message,
                next_message,
                CASE WHEN is_new THEN '{{}}' ELSE conversations END AS conversations,
                CASE WHEN is_new THEN 0 ELSE due END AS due,
                CASE WHEN is_new THEN 0 ELSE claims END AS claims
            FROM (
                SELECT *, has_expired OR $16 AS is_new
                FROM (SELECT *, coalesce(expires_at <= now(), false) AS has_expired FROM ({before}) AS before)
                    AS dated
            ) AS aged
        ) AS kept
    ) AS merged
    """


def _with_messages(change: str, *, with_conversations: bool) -> str:
    """The statement that does `change` to the user's row and, if that happened, to what goes with it.

    A DELETE does not see what the same statement does, so it goes by number: from where the messages began
    before. Below that is nothing but what the next vacuum clears away, and going through it takes time.

    Parameters: those of `_committed`, $20 and $22 authors and data of messages; with further conversations
    $25 to $31: names, numbers, roles, texts, times, authors and data of their messages; $32 which change.
    """
    conversations = _CONVERSATIONS if with_conversations else ""
    return f"""
    WITH changed AS (
        {change} RETURNING u.version, u.first_message, u.next_message, u.conversations, u.outbox
    ),
    added AS (
        INSERT INTO {{schema}}.user_message (user_id, number, role, text, at, author, data)
        SELECT $1, number, role, text, at, author, data
        FROM changed, unnest($8::text[], $9::text[], $10::float8[], $20::jsonb[], $22::json[])
                WITH ORDINALITY AS m (role, text, at, author, data, place),
            LATERAL (SELECT next_message - cardinality($8) + place - 1 AS number) AS numbered
        WHERE number >= first_message
    ),
    trimmed AS (
        DELETE FROM {{schema}}.user_message AS m USING changed
        WHERE m.user_id = $1 AND m.number < first_message AND ($16 OR m.number >= (
            SELECT first_message FROM {{schema}}.user_state WHERE user_id = $1
        ))
    ),
    {conversations}
    dropped AS (
        DELETE FROM {{schema}}.user_file AS f USING changed
        WHERE f.user_id = $1 AND NOT outbox ? split_part(f.name, '/', 1)
    )
    SELECT version FROM changed
    """


_IS_OVER = "(m.number < (changed.conversations -> m.conversation ->> 0)::bigint) IS NOT FALSE"

_CONVERSATIONS = f"""
    continued AS (
        INSERT INTO {{schema}}.user_talk (user_id, conversation, number, role, text, at, author, data)
        SELECT $1, m.* FROM changed, unnest(
            $25::text[], $26::bigint[], $27::text[], $28::text[], $29::float8[], $30::jsonb[], $31::json[]
        ) AS m
    ),
    cut AS (
        DELETE FROM {{schema}}.user_talk AS m USING changed
        WHERE m.user_id = $1 AND m.conversation = ANY ($32::text[]) AND {_IS_OVER}
    ),
    erased AS (
        DELETE FROM {{schema}}.user_talk AS m USING changed
        WHERE m.user_id = $1 AND ($16 OR $2 = 0) AND {_IS_OVER}
    ),
"""
"""Adds and drops messages of further conversations."""


class Statements:
    """The statements for one schema."""

    def __init__(self, schema: str) -> None:
        """Fill in the schema's name, which has to be a plain identifier."""
        quoted = f'"{schema}"'

        def fill(text: str) -> str:
            return text.replace("{schema}", quoted)

        load = f"""
            SELECT u.version, u.token, u.state, u.fsm, u.applied, u.outbox, u.marks, u.forgotten,
                u.conversations, m.*
            FROM {{{{schema}}}}.user_state AS u, LATERAL (
                SELECT array_agg(role ORDER BY number) AS roles, array_agg(text ORDER BY number) AS texts,
                    array_agg(at ORDER BY number) AS times, CASE WHEN bool_or(author IS NOT NULL)
                        THEN array_agg(author ORDER BY number) END AS authors,
                    CASE WHEN bool_or(data IS NOT NULL) THEN array_agg(data ORDER BY number) END AS data,
                    {{names}} AS names
                FROM {{which}}
            ) AS m
            WHERE u.user_id = $1 AND {_LIVE}
        """
        home = "{schema}.user_message WHERE user_id = u.user_id AND number >= u.first_message"
        others = """{schema}.user_talk
            WHERE user_id = u.user_id AND number >= (u.conversations -> conversation ->> 0)::bigint"""

        self.load = fill(load.format(which=home, names="NULL"))

        self.load_other = fill(load.format(which=f"{others} AND conversation = $2", names="NULL"))
        """A record with the conversation of a name."""

        columns = "number, role, text, at, author, data"
        every = f"(SELECT '' AS conversation, {columns} FROM {home} UNION ALL"
        every += f" SELECT conversation, {columns} FROM {others}) AS said"
        self.load_all = fill(load.format(which=every, names="array_agg(conversation ORDER BY number)"))
        """A record with all conversations."""

        def update(*, with_conversations: bool) -> str:
            columns = _committed("SELECT u.*", with_conversations=with_conversations)
            change = f"""
                UPDATE {{schema}}.user_state AS u SET ({_COLUMNS}) = ({columns})
                WHERE u.user_id = $1 AND u.version = $2::bigint AND u.token <> $3 AND {_LIVE}
            """
            return fill(_with_messages(change, with_conversations=with_conversations))

        self.update = update(with_conversations=False)
        """Commits to the version expected. No row: it is not there."""

        self.update_conversations = update(with_conversations=True)
        """The same where further conversations change, or where all goes."""

        of_none, of_one = (_committed(before, with_conversations=True) for before in (_NOTHING, "SELECT u.*"))
        insert = f"""
            INSERT INTO {{schema}}.user_state AS u (user_id, {_COLUMNS})
            SELECT $1::text, first.* FROM ({of_none}) AS first
            ON CONFLICT (user_id) DO UPDATE SET ({_COLUMNS}) = ({of_one})
            WHERE $2::bigint = 0 AND u.token <> $3 AND NOT {_LIVE}
        """
        self.insert = fill(_with_messages(insert, with_conversations=True))
        """Commits where no record is expected. No row: there is one."""

        self.written = fill("SELECT version FROM {schema}.user_state WHERE user_id = $1 AND token = $2")

        self.version = fill(f"SELECT version FROM {{schema}}.user_state AS u WHERE user_id = $1 AND {_LIVE}")

        self.exists = fill(f"""
            SELECT true FROM {{schema}}.user_state AS u
            WHERE user_id = $1 AND {_LIVE} AND NOT {_IS_MARKER}
        """)

        self.due = fill(f"""
            SELECT {_NOW} AS now, w.* FROM (SELECT) AS once LEFT JOIN (
                SELECT user_id, due FROM {{schema}}.user_state
                WHERE due > 0 AND due <= {_NOW} + $1::bigint ORDER BY due LIMIT $2
            ) AS w ON true ORDER BY due
        """)
        """What is due, and the time. One row without a user: nothing is."""

        self.claim = fill("""
            UPDATE {schema}.user_state
            SET due = $3::bigint, claims = CASE WHEN $3 > 0 THEN claims + $4::integer ELSE 0 END
            WHERE user_id = $1 AND due = $2 AND due > 0 RETURNING greatest(claims, 1)
        """)
        """No row: it is no longer due then."""

        self.waiting = fill("SELECT count(*) FROM {schema}.user_state WHERE due > 0")

        self.users = fill(f"""
            SELECT user_id FROM {{schema}}.user_state AS u
            WHERE user_id > $1 AND {_LIVE} AND NOT {_IS_MARKER} ORDER BY user_id LIMIT $2
        """)

        self.raw = fill("""
            SELECT jsonb_pretty(to_jsonb(u) || jsonb_build_object('messages', (
                SELECT coalesce(jsonb_agg(to_jsonb(m) - 'user_id' ORDER BY number), '[]')
                FROM {schema}.user_message AS m WHERE m.user_id = u.user_id
            ), 'talks', (
                SELECT coalesce(jsonb_agg(to_jsonb(t) - 'user_id' ORDER BY conversation, number), '[]')
                FROM {schema}.user_talk AS t WHERE t.user_id = u.user_id
            ), 'files', (
                SELECT coalesce(jsonb_agg(name ORDER BY name), '[]')
                FROM {schema}.user_file AS f WHERE f.user_id = u.user_id
            )))
            FROM {schema}.user_state AS u WHERE user_id = $1
        """)

        self.keep_part = fill("""
            INSERT INTO {schema}.user_file (user_id, name, content) VALUES ($1, $2, $3)
            ON CONFLICT DO NOTHING
        """)

        self.parts = fill(f"""
            SELECT f.name, f.content
            FROM {{schema}}.user_file AS f JOIN {{schema}}.user_state AS u USING (user_id)
            WHERE user_id = $1 AND f.name = ANY ($2) AND {_LIVE}
        """)

        self.drop_parts = fill("DELETE FROM {schema}.user_file WHERE user_id = $1 AND name = ANY ($2)")

        self.sweep_files = fill(f"""
            DELETE FROM {{schema}}.user_file WHERE at < now() - interval '{FILE_SECONDS} seconds'
        """)

        self.bind = fill("""
            INSERT INTO {schema}.user_state_owner (bot_id) VALUES ($1) ON CONFLICT DO NOTHING
        """)

        self.owner = fill("SELECT bot_id FROM {schema}.user_state_owner")

        self.sweep = fill("""
            DELETE FROM {schema}.user_state WHERE user_id = ANY (ARRAY(
                SELECT user_id FROM {schema}.user_state
                WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
            ))
        """)
        """Deletes some expired records, and their messages with them; leaves out those somebody works on."""
