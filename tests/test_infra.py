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
from support import ROOT, Answers, AnyTags, combinations, label, run

CLOUD = [each for each in combinations() if each.get("backend") == "cloud"]
WITH_REDIS = {"redis", "hybrid", "upstash", "elasticache", "memorystore", "redis_cloud"}
ON_REDIS = [each for each in combinations() if WITH_REDIS & {*each.values()}]


_IMAGE = {"registry_type": {"DOCR"}, "repository": str, "tag": str}
_COMPONENT = {
    "name": str,
    "image": _IMAGE,
    "run_command": str,
    "instance_count": int,
    "instance_size_slug": str,
    "termination": {"grace_period_seconds": int},
}
APP_SPECIFICATION = {
    "name": str,
    "region": str,
    "services": [
        {**_COMPONENT, "http_port": int, "health_check": {"http_path": str, "timeout_seconds": int}},
    ],
    "jobs": [{**_COMPONENT, "kind": {"PRE_DEPLOY"}}],
    "ingress": {
        "rules": [
            {
                "component": {"name": str, "preserve_path_prefix": bool},
                "match": {"path": {"prefix": str}},
            }
        ]
    },
    "databases": [{"name": str, "engine": {"PG"}, "production": bool, "cluster_name": str}],
    "envs": [{"key": str, "value": str, "type": {"SECRET", "GENERAL"}}],
}
"""What of https://docs.digitalocean.com/products/app-platform/reference/app-spec/ is made use of."""

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
    """ECS refuses a service whose target group no load balancer leads to yet, and ends one that starts."""
    for stack in sorted((render(**answers) / "infra").glob("*.yaml")):
        resources = (yaml.load(stack.read_text("utf-8"), Loader=AnyTags) or {}).get("Resources", {})
        rules = [name for name, each in resources.items() if each["Type"].endswith("::ListenerRule")]
        for name, service in resources.items():
            if service["Type"] != "AWS::ECS::Service" or "LoadBalancers" not in service["Properties"]:
                continue
            waits_for = {*leaves(service["Properties"]), *leaves(service.get("DependsOn", []))}
            assert waits_for & set(rules), f"{name} may come before {rules}"
            assert "HealthCheckGracePeriodSeconds" in service["Properties"], name


def test_cloud_sql_script_can_be_run_again(render: Render, tmp_path: Path) -> None:
    """With stand-ins for the tools: it makes what is not there, waits for the proxy and grants rights."""
    script = render(backend="cloud", cloud_provider="cloud_sql") / "infra/cloud_sql.sh"
    stand_ins = {
        "gcloud": """
            case "$*" in
            *" describe "*) [ -n "$IS_THERE" ] ;;
            *" users list "*) echo postgres; [ -z "$IS_THERE" ] || echo telegram-bot@my-project.iam ;;
            esac
        """,
        "cloud-sql-proxy": 'sleep 1; touch "$LOG.listens"; exec sleep 60',
        "pg_isready": '[ -e "$LOG.listens" ]',
        "psql": 'cat >>"$LOG"',
    }
    for name, code in stand_ins.items():
        file = tmp_path / name
        file.write_text(f'#!{BASH}\necho "{name} $*" >>"$LOG"\n{code}\n')
        file.chmod(0o755)
    created = []
    for is_there in ("", "1"):
        log = tmp_path / f"log{is_there}"
        variables = {"PROJECT": "my-project", "REGION": "eu", "IS_THERE": is_there, "LOG": str(log)}
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        done = run(BASH, script, cwd=tmp_path, env={**os.environ, **variables, "PATH": path})
        assert done.returncode == 0, done.stdout + done.stderr
        calls = log.read_text().splitlines()
        created.append([re.sub(r" create .*", "", call) for call in calls if " create " in call])
        assert any(re.search("^cloud-sql-proxy .*--gcloud-auth .*my-project:eu:bot", call) for call in calls)
        assert calls[-1] == 'GRANT USAGE, CREATE ON SCHEMA public TO :"user";'
        bindings = [call for call in calls if " add-iam-policy-binding " in call]
        assert len(bindings) == 2
        assert all("resource.name == 'projects/my-project/instances/bot'" in call for call in bindings)
        accounts = [call.split()[4] for call in calls if " service-accounts create " in call]
        assert all(6 <= len(name) <= 30 for name in accounts), "as Google takes them"
    made = ["iam service-accounts", "sql instances", "sql databases", "sql users"]
    assert created == [[f"gcloud {each}" for each in made], []]


def test_app_specification(render: Render) -> None:
    """What is filled in stays text, though a hash may be all digits; App Platform knows each word of it."""
    folder = render(backend="cloud", cloud_provider="digitalocean")
    text = (folder / "infra/digitalocean-app.yaml").read_text("utf-8")
    for digits in ("1234567", "1e10", "0x1f", "null", "12:30:45"):
        spec = yaml.safe_load(re.sub(r"\$\{[\w.]+\}", digits, text))
        filled_in = [env["value"] for env in spec["envs"]]
        filled_in += [spec["name"], spec["databases"][0]["cluster_name"]]
        tags = [each["image"]["tag"] for each in (*spec["services"], *spec["jobs"])]
        assert tags == [digits] * 2
        assert {type(value) for value in filled_in} == {str}
        assert [*unknown(spec, APP_SPECIFICATION)] == []


def unknown(value: Any, known: Any, path: str = "") -> Iterator[str]:
    """The places in a document that a description of it does not have, or has in another form."""
    if isinstance(known, type):
        if type(value) is not known:
            yield f"{path}: {value!r} is no {known.__name__}"
    elif isinstance(known, set):
        if value not in known:
            yield f"{path}: {value!r}"
    elif isinstance(known, list):
        for each in value:
            yield from unknown(each, known[0], f"{path}[]")
    else:
        for name, each in value.items():
            if name in known:
                yield from unknown(each, known[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"


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
    costs = text.partition("## Costs and limits")[2].partition("\n## ")[0]
    claims = [line for line in costs.splitlines() if line.startswith("|") and "https://" in line]
    assert claims
    for claim in claims:
        assert re.search(r"\b(\w+ 20\d\d|could not be consulted)\b", claim), f"when was that read? {claim}"


@pytest.mark.parametrize("answers", ON_REDIS, ids=label)
def test_rights_on_redis(render: Render, answers: Answers) -> None:
    """The rights that documents name are those that the project's tests give their user."""
    folder = render(**answers)
    files = ["README.md", "DEPLOY.md", "infra/elasticache.yaml"]
    said = {
        (path.name, rights)
        for path in map(folder.joinpath, files)
        if path.exists()
        for rights in re.findall(r"\+@read[ +|@\w-]*", path.read_text("utf-8"))
    }
    tried = (folder / "suite/redis/server.py").read_text("utf-8")
    if answers.get("cloud_provider") == "upstash":
        tried += (folder / "suite/redis/test_upstash.py").read_text("utf-8")
    assert "README.md" in {name for name, _ in said}
    for name, rights in said:
        rights = rights.removesuffix(" +cluster|slots +command")  # without which there is no cluster to test
        assert f'RIGHTS = "{rights}"\n' in tried, name
