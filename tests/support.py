"""What the tests of the template share: its questions, and commands run as on a clean machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for scripts, which are run without pytest

from suite.__main__ import environment_inside, kit_inside, pytest_command  # noqa: E402
from suite.support import warm  # noqa: E402

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
Questions = dict[str, dict[str, Any]]


def questions_of(config: dict[str, Any]) -> Questions:
    """The questions of a `copier.yml`: all but Copier's own settings."""
    return {name: details for name, details in config.items() if not name.startswith("_")}


QUESTIONS = questions_of(CONFIG)
ASKED = [
    name for name, details in QUESTIONS.items() if False not in (details.get("when"), details.get("ask"))
]
"""The questions a person may be asked: all but what is computed, or only remembered."""

UV = os.environ.get("UV") or shutil.which("uv") or "uv"

Answers = Mapping[str, str]

# Variables that would make a command behave unlike on a machine where nothing is set up.
_FOREIGN = (
    *("PYTEST_", "PYTHON", "GIT_", "COPIER_", "TEST_"),
    *(
        "LLM_",
        "OPENAI_",
        "ANTHROPIC_",
        "REDIS_",
        "HYBRID_",
        "SQLITE_",
        "AWS_",
        "DYNAMODB_",
        "ELASTICACHE_",
        "FIRESTORE_",
        "GOOGLE_",
    ),
)
_FOREIGN_NAMES = {
    "VIRTUAL_ENV", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "MYPYPATH", "MYPY_CACHE_DIR",
    "BOT_TOKEN", "WEBHOOK_URL", "WEBHOOK_SECRET", "TELEGRAM_API_URL", "DATABASE_URL",
    "DATABASE_SCHEMA", "DATABASE_POOL_SIZE", "DATABASE_TIMEOUT", "DATABASE_POOLER",
    "GCLOUD_PROJECT",
    "DATABASE_CA_CERT", "INSTANCE_CONNECTION_NAME", "DB_IAM_USER", "DB_NAME", "PRIVATE_IP",
    "FLOOD_LIMIT", "FLOOD_SECONDS", "PGPASSWORD", "STATE_TTL", "FSM_TTL", "STATE_MAX_BYTES", "HISTORY_LIMIT",
    "NAMESPACE", "LOG_LEVEL", "LOG_FORMAT", "LOG_CONTENT",
}  # fmt: skip
_NEEDED = {"GIT_SSL_CAINFO", "GIT_CONFIG_GLOBAL", "COPIER_SETTINGS_PATH", "PYTEST_DEBUG_TEMPROOT"}


def clean_env(**extra: str) -> dict[str, str]:
    """The environment without what this test run, or its user's own bot, put into it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _NEEDED or not (name.startswith(_FOREIGN) or name in _FOREIGN_NAMES)
    }
    return kept | extra


def run(
    *command: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal; its output is kept as text."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_env() if env is None else env,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def must(*command: str | Path, cwd: Path, timeout: float = 120) -> str:
    """Run a command that has to succeed and return what it printed."""
    done = run(*command, cwd=cwd, timeout=timeout)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


TYPES = ROOT / ".mypy_cache" / "rendered"
"""What mypy knows of projects and what they depend on: good for all of them."""


def uv(folder: Path, *arguments: str, timeout: float = 300, **settings: str) -> str:
    """Run uv in a rendered project; when that fails, show all it said."""
    env = clean_env(MYPY_CACHE_DIR=str(TYPES), **settings)
    done = run(UV, *arguments, cwd=folder, env=env, timeout=timeout)
    if done.returncode != 0:
        pytest.fail(f"uv {' '.join(arguments)}\n{done.stdout}\n{done.stderr}", pytrace=False)
    return done.stdout


def prove(
    folder: Path, *arguments: str, timeout: float = 1200, settings: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """Run the kit on a rendered bot, as `./do prove` does, but forked: each start would take two seconds.

    Args:
        folder: the bot, which is not changed.
        arguments: for pytest, such as folders of the kit.
        timeout: seconds.
        settings: variables of the kit's environment.

    Returns:
        What it printed, and its exit code.
    """
    from suite.__main__ import (
        environment_inside,
        kit_inside,
        pytest_command,
    )  # scripts here do without the kit
    from suite.support import warm

    with kit_inside(folder) as copy:
        command = [sys.executable, "-m", *pytest_command(["-q", "-rsfE", *arguments])]
        environment = environment_inside(copy, clean_env() | dict(settings or {}))
        done = warm.run(command, cwd=copy, env=environment, timeout=timeout)
    return done.stdout + done.stderr, done.returncode


def copier(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real `copier` command line."""
    return run(sys.executable, "-m", "copier", *arguments, cwd=cwd, env=env)


def commit_all(repository: Path, message: str, tag: str | None = None) -> None:
    """Commit everything in a folder, which becomes a git repository if it is none yet."""
    if not (repository / ".git").exists():
        must("git", "init", "--quiet", cwd=repository)
    must("git", "add", "--all", cwd=repository)
    # tests/examples.py runs outside the tests, too, and a fresh machine has told git of nobody.
    somebody = ("-c", "user.name=Tester", "-c", "user.email=tester@example.invalid")
    must("git", *somebody, "commit", "--quiet", "--allow-empty", "-m", message, cwd=repository)
    if tag:
        must("git", "tag", tag, cwd=repository)


def repository_files() -> list[str]:
    """The path of every file in this repository, committed or not, with forward slashes."""
    listed = must("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]  # else deleted, and not committed yet


RENDERED_FROM = ("copier.yml", "checks.jinja", "template", "providers", "llm")
"""What projects are rendered from. The rest of the repository only makes copies of it, of which Copier makes
several for each update, slower."""


def copy_working_tree(folder: Path) -> None:
    """Copy the repository as it is, committed or not, without the examples."""
    _copy(folder, [name for name in repository_files() if not name.startswith("examples/")])


def copy_template(folder: Path) -> None:
    """Copy what projects are rendered from, as it is, committed or not."""
    _copy(folder, [name for name in repository_files() if name.partition("/")[0] in RENDERED_FROM])


def _copy(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


def pack(repository: Path) -> None:
    """Have git keep everything in one file, of which it is quick to make copies."""
    must("git", "repack", "-a", "-d", "--quiet", cwd=repository)


def choices(question: str, questions: Questions = QUESTIONS) -> list[str]:
    """The values a question offers; empty for free text."""
    offered = questions[question].get("choices", [])
    values = offered.values() if isinstance(offered, dict) else offered
    return [value["value"] if isinstance(value, dict) else value for value in values]


def combinations(questions: Questions = QUESTIONS) -> list[dict[str, str]]:
    """Every combination of choices that can be answered, as `copier.yml` has them, or an older one had.

    All with the default `agent`, which goes with each of them in the same way; `with_model` has the other.
    """
    found: list[dict[str, str]] = [{}]
    for question, details in questions.items():
        if details.get("when") is False or question == "agent" or not choices(question, questions):
            continue
        condition = str(details.get("when", True))
        grown: list[dict[str, str]] = []
        for answers in found:
            rendered = _compiled(condition).render(answers)
            if rendered.strip().lower() == "true":
                grown += [answers | {question: value} for value in choices(question, questions)]
            else:
                grown.append(answers)
        found = grown
    return found


def engine(answers: Answers, questions: Questions = QUESTIONS) -> str:
    """The engine that follows from a combination, as `copier.yml` computes it, or an older one did."""
    return _compiled(questions["engine"]["default"]).render(answers)


@cache
def _compiled(template: str) -> jinja2.Template:
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template)


def first_of_each_engine(questions: Questions = QUESTIONS) -> dict[str, dict[str, str]]:
    """Every engine, and the combination that stands for it."""
    found: dict[str, dict[str, str]] = {}
    for answers in combinations(questions):
        found.setdefault(engine(answers, questions), answers)
    return found


def with_model() -> list[dict[str, str]]:
    """A combination for each engine, with the agent that is a language model."""
    return [answers | {"agent": "llm"} for answers in first_of_each_engine().values()]


def label(answers: Answers) -> str:
    """A short name of a combination, for test ids."""
    return "-".join(answers.values()) or "defaults"


def text_files(project: Path) -> list[Path]:
    """Every file of a freshly rendered project. All of them are text."""
    return sorted(path for path in project.rglob("*") if path.is_file() and ".git" not in path.parts)


def tree(project: Path) -> dict[str, bytes]:
    """Every file of a project, by its path, and what is in it."""
    return {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted(project.rglob("*"))
        if path.is_file() and path.relative_to(project).parts[0] != ".git"
    }


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
