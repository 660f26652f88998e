"""infra/memorystore.sh, with a stand-in for gcloud that keeps what is created until it is deleted."""

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import copy, which

import pytest

pytestmark = [
    pytest.mark.clause("provider.infra"),
    pytest.mark.rarely,
    pytest.mark.skipif(not which("bash"), reason="infra/memorystore.sh takes bash"),
]

GCLOUD = f"""#!{sys.executable}
import re, sys
from pathlib import Path

base, call = Path(__file__).parent.parent, " ".join(sys.argv[1:])
with open(base / "calls", "a") as calls:
    calls.write(call + "\\n")
for failure in (base / "failures").iterdir():
    if re.search(failure.read_text(), call):
        if failure.name != "always":
            failure.unlink()
        sys.exit("ERROR: not now")
if found := re.match(r"(?!projects)(.*?) (create|describe|delete) ([^ @]+)", call):
    kind, verb, name = found.groups()
    thing = base / "there" / f"{{kind}} {{name}}"
    if verb == "create":
        thing.touch()
    elif not thing.exists():
        sys.exit("ERROR: it could not be found")
    elif verb == "delete":
        thing.unlink()
if call.startswith("secrets versions add "):
    (base / "secrets" / sys.argv[4]).write_text(sys.stdin.read())
answers = {{
    "get-value core/project": "my-project",
    "get-auth-string": "sesame",
    "value(serverCaCerts": "one;two",
    "value(host)": "10.0.0.3",
    "value(port)": "6378",
    "value(projectNumber)": "123",
}}
print(next((answer for part, answer in answers.items() if part in call), ""))
"""


class Script:
    """The script in a folder of its own.

    Attributes:
        calls: what was asked of gcloud when it ran last.
        said: what it said then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("infra", "bin", "there", "secrets", "failures"):
            (folder / name).mkdir()
        copy(Path(__file__).parents[2] / "infra/memorystore.sh", folder / "infra")
        for tool, text in (("gcloud", GCLOUD), ("docker", "#!/bin/sh\n")):
            (folder / "bin" / tool).write_text(text, "utf-8")
            (folder / "bin" / tool).chmod(0o755)

    def fail(self, pattern: str, times: int | None = None) -> None:
        """Have calls that match fail, so many of them or all."""
        for name in ["always"] if times is None else map(str, range(times)):
            (self._folder / "failures" / name).write_text(pattern, "utf-8")

    def recover(self) -> None:
        """Have no call fail any more."""
        for failure in (self._folder / "failures").iterdir():
            failure.unlink()

    def run(self, *arguments: str, name: str = "my-bot", token: str = "") -> int:
        """Run it, and give its exit code."""
        (self._folder / "calls").write_text("", "utf-8")
        path = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "infra/memorystore.sh", *arguments],
            cwd=self._folder,
            env={"PATH": path, "NAME": name, "REGION": "europe-west1", "MEMORYSTORE_PAUSE": "0"},
            input=token,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.calls = (self._folder / "calls").read_text("utf-8").splitlines()
        self.said = done.stdout
        return done.returncode

    @property
    def secrets(self) -> dict[str, str]:
        return {path.name: path.read_text("utf-8") for path in (self._folder / "secrets").iterdir()}

    @property
    def there(self) -> set[str]:
        return {path.name for path in (self._folder / "there").iterdir()}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.parametrize("name", ["bot", "a" * 31, "my-bot-", "My-Bot"])
def test_a_name_that_no_service_account_can_have_costs_nothing(script: Script, name: str) -> None:
    assert script.run("create", name=name, token="42:x") == 2
    assert script.calls == []
    assert "6 to 30 characters" in script.said


def test_create(script: Script) -> None:
    """Also when the service account, just made, is not known everywhere yet, and when it is run again."""
    script.fail("add-iam-policy-binding", times=3)
    assert script.run("create", token="42:x") == 0, script.said
    assert not [line for line in [*script.calls, script.said] if "sesame" in line or "42:x" in line]
    assert script.secrets == {
        "my-bot-token": "42:x",
        "my-bot-redis-ca": "one\ntwo\n",
        "my-bot-redis-url": "rediss://:sesame@10.0.0.3:6378/0",
    }
    (created,) = [call for call in script.calls if call.startswith("redis instances create")]
    for option in ("--enable-auth", "--transit-encryption-mode=server-authentication", "=noeviction"):
        assert option in created
    assert script.run("create", token="42:x") == 0, script.said
    assert not [call for call in script.calls if " create " in call]


@pytest.mark.parametrize("question", ["get-auth-string", r"value\(host\)", r"value\(serverCaCerts"])
def test_a_question_without_an_answer_ends_it(script: Script, question: str) -> None:
    script.fail(question)
    assert script.run("create", token="42:x") != 0
    assert set(script.secrets) == {"my-bot-token"}


def test_the_bot_waits_for_its_network_and_cloud_run_for_the_bot(script: Script) -> None:
    """A connection from a new process may take more than a minute; a probe may go on for 240 s."""
    assert script.run("deploy") == 0, script.said
    deployed = [call for call in script.calls if re.match("run (jobs )?deploy", call)]
    assert [re.findall(r"REDIS_CONNECT_TIMEOUT=(\d+)", call) for call in deployed] == [["180"], ["180"]]
    probe = r"--startup-probe=\S*periodSeconds=(\d+)\S*failureThreshold=(\d+)"
    ((period, failures),) = re.findall(probe, deployed[0])
    assert 180 < int(period) * int(failures) <= 240


def test_what_cannot_be_deleted_yet_is_named(script: Script) -> None:
    """Cloud Run holds on to its subnet for a while; what is not there is no matter."""
    assert script.run("create", token="42:x") == 0, script.said
    script.fail("networks (subnets )?delete")
    assert script.run("delete") == 1
    assert "still there: compute networks subnets my-bot\n" in script.said
    assert script.there == {"compute networks my-bot", "compute networks subnets my-bot"}
    script.recover()
    assert script.run("delete") == 0, script.said
    assert script.there == set()
