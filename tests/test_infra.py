"""What deploys a project for the cloud: scripts, templates, and the commands of DEPLOY.md."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Render
from support import ROOT, Answers, combinations, label, run

CLOUD = [each for each in combinations() if each.get("backend") == "cloud"]


class AnyTags(yaml.SafeLoader):
    """Reads CloudFormation, whose functions are tags such as !Ref, as what they are given."""


def _bare(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    match node:
        case yaml.SequenceNode():
            return loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            return loader.construct_mapping(node, deep=True)
        case _:
            return node.value


AnyTags.add_multi_constructor("!", _bare)

BASH = shutil.which("bash") or "bash"
TOOLS = Path(sys.executable).parent


def commands(text: str) -> list[str]:
    """The shell commands of a document: what is indented, and what is fenced as `sh` or `bash`."""
    plain, fenced = "", []
    for number, part in enumerate(re.split(r"^```", text, flags=re.MULTILINE)):
        if number % 2:
            language, _, code = part.partition("\n")
            fenced += [code] if language.strip() in {"sh", "bash"} else []
        else:
            plain += part
    indented = re.findall(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)", plain)
    return fenced + [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in indented]


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a document that holds nothing else."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


def shells(code: str, folder: Path) -> None:
    """Fails where bash cannot read it."""
    done = run(BASH, "-n", cwd=folder, stdin=code)
    assert done.returncode == 0, f"{code}\n{done.stderr}"


@pytest.mark.parametrize("answers", CLOUD, ids=label)
def test_scripts(render: Render, answers: Answers) -> None:
    """They can be run as they are, and a linter of shell scripts finds nothing."""
    folder = render(**answers)
    for script in sorted((folder / "infra").glob("*.sh")):
        assert os.access(script, os.X_OK), script.name
        shells(script.read_text("utf-8"), folder)
        done = run(TOOLS / "shellcheck", script, cwd=ROOT)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("answers", CLOUD, ids=label)
def test_stacks(render: Render, answers: Answers) -> None:
    """CloudFormation takes them, by its own schemas; YAML's anchors it does not know."""
    for stack in sorted((render(**answers) / "infra").glob("*.yaml")):
        text = stack.read_text("utf-8")
        if "AWSTemplateFormatVersion" not in text:
            continue
        assert not re.search(r"^[^#\"]*: [&*]\w", text, re.MULTILINE)
        done = run(TOOLS / "cfn-lint", stack, cwd=ROOT)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("answers", CLOUD, ids=label)
def test_services_behind_load_balancers(render: Render, answers: Answers) -> None:
    """ECS refuses a service whose target group no load balancer leads to yet, and would end one that starts."""
    for stack in sorted((render(**answers) / "infra").glob("*.yaml")):
        resources = (yaml.load(stack.read_text("utf-8"), Loader=AnyTags) or {}).get("Resources", {})
        rules = [name for name, each in resources.items() if each["Type"].endswith("::ListenerRule")]
        for name, service in resources.items():
            if service["Type"] != "AWS::ECS::Service" or "LoadBalancers" not in service["Properties"]:
                continue
            waits_for = {*leaves(service["Properties"]), *leaves(service.get("DependsOn", []))}
            assert waits_for & set(rules), f"{name} may come before {rules}"
            assert "HealthCheckGracePeriodSeconds" in service["Properties"], name


@pytest.mark.parametrize("answers", CLOUD, ids=label)
def test_instructions(render: Render, answers: Answers) -> None:
    """Bash can read the commands, what they name is there, and it says what was tried and what it costs."""
    folder = render(**answers)
    text = (folder / "DEPLOY.md").read_text("utf-8")
    found = commands(text)
    assert len(found) > 3
    for block in found:
        shells(block, folder)
        assert "BOT_TOKEN=$" not in block, "whoever lists processes would see the token"
    for name in re.findall(r"\b((?:infra|bot|tests|grafana|supabase)/[\w/]+\.\w+)", text):
        is_fetched = name.endswith(".pem")  # an authority's certificates, by a command in the text
        assert is_fetched or (folder / name).exists(), name
    assert "# Deploying My Bot: " in text
    for part in ("Costs and limits", "Deleting everything", "What was tried"):
        assert f"\n## {part}\n" in text
    assert "Nothing was tried at" in " ".join(text.split())
    assert re.search(r"as of|read in November 2026", text), "when was the page read that names the price?"
