"""What a project for a cloud provider says of deploying it: commands that parse, templates that lint."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Render
from support import ROOT, Answers, combinations, label, run

CLOUD = pytest.mark.parametrize(
    "answers", [each for each in combinations() if each["backend"] == "cloud"], ids=label
)

CLOUDFORMATION = [
    path
    for path in sorted((ROOT / "template" / "infra").glob("*.yaml"))
    if "AWSTemplateFormatVersion" in path.read_text("utf-8")
]


def shell_scripts(folder: Path) -> Iterator[tuple[str, str]]:
    """Each block of commands in DEPLOY.md, and each script, with its name."""
    text = (folder / "DEPLOY.md").read_text("utf-8")
    for match in re.finditer(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 1
        yield f"DEPLOY.md:{line}", match[1]
    for path in sorted(folder.glob("infra/*.sh")):
        yield path.name, path.read_text("utf-8")


@CLOUD
def test_commands_are_shell(render: Render, answers: Answers) -> None:
    """`bash -n` finds nothing in any of them, and no secret is an argument."""
    for name, script in shell_scripts(render(**answers)):
        done = run("bash", "-n", cwd=ROOT, stdin=script)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert "BOT_TOKEN=$" not in script, f"{name}: the token would be seen by whoever lists processes"


@CLOUD
def test_deploy_is_of_this_project(render: Render, answers: Answers) -> None:
    """It says what was tried, what there is to pay, and how to get rid of everything; its files are there."""
    folder = render(**answers)
    text = (folder / "DEPLOY.md").read_text("utf-8")
    for part in ("**Tried**", "What it costs", "**Deleting everything**", "**Erasing a user**"):
        assert part in text, part
    for path in re.findall(r"\b(?:infra|supabase)/[\w./-]*\w", text):
        assert (folder / path).exists(), path


@pytest.mark.parametrize("path", CLOUDFORMATION, ids=lambda path: path.name)
def test_cloudformation_is_clean(path: Path) -> None:
    """By cfn-lint, offline; every warning counts."""
    done = run(Path(sys.executable).with_name("cfn-lint"), path, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
