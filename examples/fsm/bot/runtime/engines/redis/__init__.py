"""The Redis engine: a few keys per user, written together by one script."""
