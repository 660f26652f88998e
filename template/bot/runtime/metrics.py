"""What the bot measures, served as `/metrics`."""

from prometheus_client import Counter, Gauge, Histogram

UPDATES = Counter("bot_updates", "Updates dealt with, by kind and by how it ended.", ["kind", "outcome"])
IN_FLIGHT = Gauge("bot_updates_in_flight", "Updates taken and not yet dealt with.")
QUEUE_AGE = Gauge(
    "bot_queue_age_seconds",
    "How long the oldest update in flight has waited, since its user sent it as far as it says when.",
)
PENDING = Gauge("bot_pending_updates", "Updates that wait at Telegram: the same number in every replica.")
TURN_SECONDS = Histogram(
    "bot_turn_seconds",
    "From taking an update to its last reply.",
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
_STORE_SECONDS = Histogram(
    "bot_store_seconds",
    "Round trips to the store.",
    ["operation"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
)
LOAD_SECONDS = _STORE_SECONDS.labels("load")
COMMIT_SECONDS = _STORE_SECONDS.labels("commit")
CONFLICTS = Counter("bot_conflicts", "Commits that came too late and were computed again.")
DUPLICATES = Counter("bot_duplicates", "Updates delivered again after they were applied.")
RETRIES = Counter("bot_retries", "Updates that had to wait for the store or for Telegram.")
FLOODED = Counter("bot_flooded_messages", "Messages not handled because their user wrote too many.")
LOOP_LAG = Histogram(
    "bot_loop_lag_seconds",
    "How late the event loop was for something due every second.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
