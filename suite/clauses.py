"""Every promise that the kit proves, by name. Tests name theirs with `@pytest.mark.clause`."""

CLAUSES: dict[str, str] = {}
