"""What the bot measures, served as `/metrics`."""

from prometheus_client import Counter, Gauge, Histogram

UPDATES = Counter("bot_updates", "Updates processed, by kind and outcome.", ["kind", "outcome"])
IN_FLIGHT = Gauge("bot_updates_in_flight", "Updates accepted and not yet processed.")
QUEUE_AGE = Gauge(
    "bot_queue_age_seconds",
    "Age of the oldest update in flight, since it was sent or, if that is unknown, accepted.",
)
PENDING = Gauge("bot_pending_updates", "Updates pending at Telegram; the same number in every replica.")
TURN_SECONDS = Histogram(
    "bot_turn_seconds",
    "Seconds from accepting an update to its last reply.",
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
_STORE_SECONDS = Histogram(
    "bot_store_seconds",
    "Seconds per round trip to the store.",
    ["operation"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
)
LOAD_SECONDS = _STORE_SECONDS.labels("load")
COMMIT_SECONDS = _STORE_SECONDS.labels("commit")
CONFLICTS = Counter("bot_conflicts", "Commits that lost against another one and were computed again.")
DUPLICATES = Counter("bot_duplicates", "Updates that were delivered again after they had been applied.")
RETRIES = Counter("bot_retries", "Updates that were retried because the store was away.")
GIVEN_UP = Counter("bot_replies_given_up", "Replies that could not be sent, by reason.", ["reason"])
JOBS = Counter("bot_jobs", "Jobs run, by outcome.", ["outcome"])
JOB_LATE_SECONDS = Histogram(
    "bot_job_late_seconds",
    "Seconds by which jobs began after their time.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
FLOODED = Counter("bot_flooded_messages", "Messages dropped by flood protection.")
LOOP_LAG = Histogram(
    "bot_loop_lag_seconds",
    "How late the event loop ran something that is due every second.",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
