"""infra/redis_cloud.sh, by as much of Redis Cloud's REST API as it asks of it."""

import asyncio
import json
import os
import re
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path
from shutil import copy, which
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

pytestmark = [
    pytest.mark.clause("provider.infra"),
    pytest.mark.rarely,
    pytest.mark.skipif(not which("curl"), reason="infra/redis_cloud.sh takes curl"),
]

PLACE = "redis-1.example:1234"
PLANS = [
    {
        "id": number,
        "name": name,
        "size": 250,
        "sizeMeasurementUnit": "MB",
        "region": "us-east-1",
        "price": 5,
        "priceCurrency": "USD",
        "pricePeriod": "Month",
        "connections": "256",
        "supportDataPersistence": keeps,
        "supportSsl": True,
    }
    for number, name, keeps in ((41, "forgetful", False), (42, "standard", True))
]


class Api:
    """The API, and the script in a folder of its own.

    Attributes:
        asked: method, path and body of each request.
        bodies: the bodies of the POST requests.
        status: what is said of a resource, by its path, when it is asked for again; others succeed.
        faults: how many of the next GET requests fail in passing.
        said: what the script said when it ran last.
    """

    def __init__(self, folder: Path) -> None:
        self.env = folder / ".env"
        self.asked: list[tuple[str, str, Any]] = []
        self.status: dict[str, str] = {}
        self.faults = 0
        self._folder = folder
        (folder / "infra").mkdir()
        copy(Path(__file__).parents[2] / "infra/redis_cloud.sh", folder / "infra")

    @property
    def bodies(self) -> list[Any]:
        return [body for method, _, body in self.asked if method == "POST"]

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request: what was begun is done when it is asked for the second time."""
        assert (request.headers["x-api-key"], request.headers["x-api-secret-key"]) == ("key", "secret")
        body = await request.text()
        path = request.path_qs.removeprefix("/v1")
        if request.method == "GET" and self.faults:
            self.faults -= 1
            return web.Response(status=503, text="busy")
        self.asked.append((request.method, path, json.loads(body) if body else None))
        is_first = sum(path == each for _, each, _ in self.asked) == 1
        status = "pending" if is_first else self.status.get(path, "active")
        match request.method, path.split("/")[1:]:
            case "GET", ["tasks", task]:
                status = "received" if is_first else self.status.get(path, "processing-completed")
                response: dict[str, Any] = {"error": {"type": "NO_ROOM"}} if "error" in status else {}
                if task in ("7", "8"):
                    response["resourceId"] = int(task)
                return web.json_response({"status": status, "response": response})
            case "POST", ["fixed", "subscriptions"]:
                return web.json_response({"taskId": "7"})
            case "POST", ["fixed", "subscriptions", "7", "databases"]:
                return web.json_response({"taskId": "8"})
            case "DELETE", [*_, _]:
                return web.json_response({"taskId": "9"})
            case "GET", ["payment-methods"]:
                return web.json_response({"paymentMethods": [{"id": 5, "type": "Visa"}]})
            case "GET", ["fixed", "plans?provider=AWS"]:
                return web.json_response({"plans": PLANS})
        shown = {"status": status, "publicEndpoint": PLACE, "name": "my-bot", "security": {"password": "pw"}}
        return web.json_response(shown)

    async def run(self, *arguments: str) -> int | None:
        """Run the script, and give its exit code."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        async with TestServer(app) as api:
            process = await asyncio.create_subprocess_exec(
                *("bash", "infra/redis_cloud.sh", *arguments),
                cwd=self._folder,
                env={
                    "PATH": os.environ["PATH"],
                    "REDIS_CLOUD_KEY": "key",
                    "REDIS_CLOUD_SECRET": "secret",
                    "REDIS_CLOUD_API": str(api.make_url("")).rstrip("/"),
                    "REDIS_CLOUD_PAUSE": "0.05",
                    "REDIS_CLOUD_PATIENCE": "4",
                },
                stdout=PIPE,
                stderr=STDOUT,
            )
            said, _ = await process.communicate()
        self.said = said.decode()
        return process.returncode


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(tmp_path)
    yield api
    assert api.bodies[1:] == [] or api.bodies[1]["password"] not in api.said


async def test_create(api: Api) -> None:
    assert await api.run("create", "my-bot", "42", "5") == 0, api.said
    assert api.said == f"subscription 7\ndatabase 8 at {PLACE}\n"
    subscription, database = api.bodies
    assert subscription == {"name": "my-bot", "planId": 42, "paymentMethodId": 5}
    password = database["password"]
    assert re.fullmatch(r"\w{48}", password)
    assert database == {
        "name": "my-bot",
        "enableTls": True,
        "dataPersistence": "aof-every-1-second",
        "dataEvictionPolicy": "noeviction",
        "password": password,
    }
    assert api.env.read_text("utf-8") == f"REDIS_URL=rediss://default:{password}@{PLACE}\n"
    assert api.env.stat().st_mode & 0o777 == 0o600


async def test_questions_that_go_wrong_in_passing_are_asked_again(api: Api) -> None:
    api.env.write_text("BOT_TOKEN=42:x\n# at @ENDPOINT", "utf-8")  # its last line does not end
    api.faults = 3
    assert await api.run("create", "my-bot", "42", "5") == 0, api.said
    password = api.bodies[1]["password"]
    kept = "BOT_TOKEN=42:x\n# at @ENDPOINT\n"
    assert api.env.read_text("utf-8") == f"{kept}REDIS_URL=rediss://default:{password}@{PLACE}\n"
    assert len(api.bodies) == 2, "nothing is bought twice"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/tasks/8", "processing-error"),
        ("/fixed/subscriptions/7/databases/8", "creation-failed"),
        ("/fixed/subscriptions/7/databases/8", "pending"),
    ],
)
async def test_a_database_that_does_not_come_about_can_be_found_again(
    api: Api, path: str, status: str
) -> None:
    """Its password is kept, and nothing is bought once more unless somebody looked."""
    api.status[path] = status
    assert await api.run("create", "my-bot", "42", "5") == 1
    assert "Subscription 7 is there and costs" in api.said
    password = api.bodies[1]["password"]
    assert api.env.read_text("utf-8") == f"REDIS_URL=rediss://default:{password}@ENDPOINT\n"
    assert api.env.stat().st_mode & 0o777 == 0o600
    api.asked.clear()
    assert await api.run("create", "my-bot", "42", "5") == 1
    assert ("set in .env already" in api.said, api.asked) == (True, [])


async def test_a_subscription_that_does_not_come_about(api: Api) -> None:
    api.status["/tasks/7"] = "processing-error"
    assert await api.run("create", "my-bot", "42", "5") == 1
    assert "NO_ROOM" in api.said
    assert "look in the console" in api.said
    assert not api.env.exists()


async def test_plans_and_payments(api: Api) -> None:
    assert await api.run("plans", "AWS") == 0
    assert re.fullmatch(r"42 .*250 MB .*5 USD per Month .*us-east-1 .*256 .*standard\n", api.said), api.said
    assert await api.run("payments") == 0
    assert '"id": 5' in api.said


async def test_show_and_delete(api: Api) -> None:
    assert await api.run("show", "7", "8") == 0
    assert f"publicEndpoint {PLACE}\n" in api.said
    assert "pw" not in api.said
    api.asked.clear()
    assert await api.run("delete", "7", "8") == 0, api.said
    deleted = [path for method, path, _ in api.asked if method == "DELETE"]
    assert deleted == ["/fixed/subscriptions/7/databases/8", "/fixed/subscriptions/7"]
    api.asked.clear()
    assert await api.run("delete", "7") == 0, api.said
    assert [path for method, path, _ in api.asked if method == "DELETE"] == ["/fixed/subscriptions/7"]
    assert await api.run() == 2
