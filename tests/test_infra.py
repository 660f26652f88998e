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

import reference
from conftest import Render
from support import ROOT, AnyTags, run

INFRA = ROOT / "template/infra"  # its files are rendered as they are
EACH_SCRIPT = pytest.mark.parametrize("script", sorted(INFRA.glob("*.sh")), ids=lambda path: path.name)
STACKS = [
    path for path in sorted(INFRA.glob("*.yaml")) if "AWSTemplateFormatVersion" in path.read_text("utf-8")
]
EACH_STACK = pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.name)
EACH_PROVIDER = pytest.mark.parametrize("provider", reference.choices("cloud_provider"))

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

CHAPTERS = (
    "What you need",
    "Create the database",
    "Configure the bot",
    "Deploy the bot",
    "Webhook and proxy",
    "Check its health",
    "Update",
    "Erase a user",
    "Back up and restore",
    "Costs and limits",
    "Tear down",
    "What was tried",
)
"""Of each DEPLOY.md, in this order."""

BASH = shutil.which("bash") or "bash"
TOOLS = Path(sys.executable).parent


def commands(text: str) -> list[str]:
    """The shell commands of a document: what is fenced as `sh` or `bash`."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in fences if language in {"sh", "bash"}]


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a document that holds nothing else."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


def shells(code: str) -> None:
    """Fails where bash cannot read it."""
    done = run(BASH, "-n", cwd=ROOT, stdin=code)
    assert done.returncode == 0, f"{code}\n{done.stderr}"


@EACH_SCRIPT
def test_scripts(script: Path) -> None:
    """They can be run as they are, and a linter of shell scripts finds nothing."""
    assert os.access(script, os.X_OK)
    shells(script.read_text("utf-8"))
    done = run(TOOLS / "shellcheck", script, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@EACH_SCRIPT
def test_scripts_without_what_they_need(script: Path) -> None:
    """Called from anywhere, without arguments or variables, they say what they want."""
    for arguments in ([], ["create"], ["show", "1"]):
        done = run(BASH, script, *arguments, cwd=Path("/"))
        assert done.returncode == 2
        assert "line " not in done.stderr.partition("\n")[0]
        is_one = done.stderr.endswith("is not set in the environment (its first lines say more)\n")
        assert is_one or f"infra/{script.name} " in done.stderr


def test_infra_is_rendered_as_it_is(render: Render) -> None:
    """Also that a script can be run."""
    folder = render(backend="cloud", cloud_provider="firestore") / "infra"
    assert sorted(path.name for path in folder.iterdir()) == [".gitattributes", "firestore.sh"]
    assert (folder / "firestore.sh").read_bytes() == (INFRA / "firestore.sh").read_bytes()
    assert os.access(folder / "firestore.sh", os.X_OK)
    assert not [*INFRA.glob("*.jinja")]


@EACH_STACK
def test_stacks(stack: Path) -> None:
    """CloudFormation takes them, by its own schemas; YAML's anchors it does not know."""
    assert not re.search(r"^[^#\"]*: [&*]\w", stack.read_text("utf-8"), re.MULTILINE)
    done = run(TOOLS / "cfn-lint", stack, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@EACH_STACK
def test_services_behind_load_balancers(stack: Path) -> None:
    """ECS refuses a service whose target group no load balancer leads to yet, and ends one that starts."""
    resources = yaml.load(stack.read_text("utf-8"), Loader=AnyTags)["Resources"]
    rules = [name for name, each in resources.items() if each["Type"].endswith("::ListenerRule")]
    for name, service in resources.items():
        if service["Type"] != "AWS::ECS::Service" or "LoadBalancers" not in service["Properties"]:
            continue
        waits_for = {*leaves(service["Properties"]), *leaves(service.get("DependsOn", []))}
        assert waits_for & set(rules), f"{name} may come before {rules}"
        assert "HealthCheckGracePeriodSeconds" in service["Properties"], name


def test_cloud_sql_script_can_be_run_again(tmp_path: Path) -> None:
    """With stand-ins for the tools: it makes what is not there, waits for the proxy and grants rights."""
    script = INFRA / "cloud_sql.sh"
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


def test_app_specification() -> None:
    """What is filled in stays text, though a hash may be all digits; App Platform knows each word of it."""
    text = (INFRA / "digitalocean-app.yaml").read_text("utf-8")
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


@EACH_PROVIDER
def test_instructions(provider: str) -> None:
    """Bash can read the commands, what they name is there, and it says what was tried and what it costs."""
    answers = reference.answers_of(provider)
    text = reference.rendered("DEPLOY.md", answers)
    found = commands(text)
    assert len(found) > 3
    for block in found:
        shells(block)
        assert "BOT_TOKEN=$" not in block, "whoever lists processes would see the token"
    for name in re.findall(r"\b((?:infra|bot|tests|suite|docs|supabase)/[\w/]+\.\w+)", text):
        is_fetched = name.endswith(".pem")  # an authority's certificates, by a command in the text
        is_here = name.startswith(("suite/", "docs/")) and (ROOT / name).exists()
        assert is_fetched or is_here or name in reference.files(answers), name
    assert "# Deploying My Bot: " in text
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == CHAPTERS
    assert not re.search(r"^\n    \S", text, re.MULTILINE), "commands stand between fences"
    assert "Nothing was tried at" in " ".join(text.split())
    costs = text.partition("## Costs and limits")[2].partition("\n## ")[0]
    claims = [line for line in costs.splitlines() if line.startswith("|") and "https://" in line]
    assert claims
    for claim in claims:
        assert re.search(r"\b(\w+ 20\d\d|could not be consulted)\b", claim), f"when was that read? {claim}"


def test_rights_on_redis() -> None:
    """The rights that documents name are those that the suite gives to the bot's user."""
    files = [
        *(ROOT / "docs/backends").glob("*.md"),
        *(ROOT / "providers").rglob("*.md"),
        ROOT / "template/infra/elasticache.yaml",
    ]
    said = {
        (path.relative_to(ROOT).as_posix(), rights)
        for path in files
        for rights in re.findall(r"\+@read[ +|@\w-]*", path.read_text("utf-8"))
    }
    sources = [path.read_text("utf-8") for path in sorted((ROOT / "suite").rglob("*.py"))]
    tried = {rights for text in sources for rights in re.findall(r'\bRIGHTS = "(.*?)"', text)}
    assert {"docs/backends/redis.md", "docs/backends/hybrid.md"} <= {name for name, _ in said}
    for name, rights in said:
        rights = rights.removesuffix(" +cluster|slots +command")  # without which there is no cluster to test
        assert rights.strip() in tried, name
