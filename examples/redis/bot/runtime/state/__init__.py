"""What the bot keeps about its users, and how it is committed."""
