"""x."""


def adopt_fsm() -> None:
    """X."""
