"""The template's: `copier update` replaces it. Yours are `bot/agent.py` and `bot/handlers.py`."""
