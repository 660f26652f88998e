"""Everything that speaks to Telegram, or to the terminal in its place."""
