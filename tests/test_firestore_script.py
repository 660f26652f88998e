"""What infra/firestore.sh of a rendered project tells gcloud, which is not there."""

import os
import re
import shutil
from pathlib import Path

import pytest

from conftest import Render
from support import clean_env, run

BASH = shutil.which("bash") or "bash"

FIRESTORE = {"backend": "cloud", "cloud_provider": "firestore"}


def firestore(
    folder: Path, tmp_path: Path, name: str, *command: str, there: str = "nothing", fails: str = "nothing"
) -> tuple[int, str, str]:
    """Run `infra/firestore.sh` where gcloud and the like only note what they are told.

    Args:
        folder: of the rendered project.
        tmp_path: for what stands in for them.
        name: the bot's short name.
        command: what to do.
        there: what is there already: the words between `gcloud` and `describe`, as a pattern of the shell.
        fails: the words after `gcloud` of what does not work, as a pattern.

    Returns:
        The exit code, what it said, and what they were told, one command a line.
    """
    told = tmp_path / "told"
    told.write_text("")
    answers = f"""case "$*" in
        "config get-value"*) echo demo-bot ;;
        "projects describe"*) echo 42 ;;
        "secrets versions add"*) cat > /dev/null ;;
        {there}" describe "*) ;;
        *" describe "* | {fails}) exit 1 ;;
    esac"""
    for program in ("gcloud", "npx", "docker", "sleep"):
        path = tmp_path / program
        path.write_text(f"""#!{BASH}\necho "{program} $*" >> {told}\n{answers}\n""")
        path.chmod(0o755)
    env = clean_env(NAME=name, REGION="r", LOCATION="l", PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = run(folder / "infra/firestore.sh", *command, cwd=folder, env=env, stdin="42:secret")
    return done.returncode, done.stderr, told.read_text()


@pytest.mark.parametrize("slug", ["my", "mybot", "my-bot", "m" * 30, "m" * 31, "m" * 25 + "-" * 14 + "m"])
def test_an_account_of_any_name(render: Render, tmp_path: Path, slug: str) -> None:
    """What may be a slug may not be an account of Google's: that takes 6 to 30 characters."""
    code, said, told = firestore(render(**FIRESTORE), tmp_path, slug, "create")
    assert code == 0, said
    (made,) = re.findall(r"iam service-accounts create (\S*)\n", told)
    assert re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", made)
    assert f"serviceAccount:{made}@demo-bot." in told
    assert (made == slug) == (6 <= len(slug) <= 30), "a name that was good stays"
    assert "42:secret" not in told


@pytest.mark.parametrize(
    ("there", "is_ours"),
    [("firestore*", False), ("iam*", True), ("[fi]*", True)],
    ids=["theirs", "none", "ours"],
)
def test_a_database_of_somebody_else(render: Render, tmp_path: Path, there: str, is_ours: bool) -> None:
    """Its rules are not replaced; ours may be made again."""
    code, said, told = firestore(render(**FIRESTORE), tmp_path, "my-bot", "create", there=there)
    assert (code == 0) == is_ours, said
    assert ("npx" in told) == is_ours
    assert is_ours or "a project of the bot's own" in said


def test_records_stay_where_the_policies_are(render: Render, tmp_path: Path) -> None:
    """Expiry and exemptions from indexes are about one collection, whatever the bot is called at Google."""
    code, said, told = firestore(render(**FIRESTORE), tmp_path, "another", "deploy")
    assert code == 0, said
    assert "WEBHOOK_URL=https://another-42.r.run.app/telegram" in told
    assert "NAMESPACE" not in told


@pytest.mark.parametrize("fails", ["nothing", '"run jobs execute"*'])
def test_what_a_command_said_is_shown(render: Render, tmp_path: Path, fails: str) -> None:
    """A finding of the doctor that is an error lets the job fail: that one above all."""
    code, _, told = firestore(render(**FIRESTORE), tmp_path, "my-bot", "bot", "doctor", fails=fails)
    assert code == (0 if fails == "nothing" else 1)
    executed, _, read = told.splitlines()[-3:]
    assert executed.startswith("gcloud run jobs execute my-bot-command ")
    assert read.startswith("gcloud run jobs logs read my-bot-command ")
