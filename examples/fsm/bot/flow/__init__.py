"""A conversation in steps, as an example. Make it yours, copy it for another one, or delete the folder."""

from .handlers import MENU, router

__all__ = ["MENU", "router"]
