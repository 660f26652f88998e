"""Every project the template can render, of every combination of answers, passes its own checks."""

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from copier import run_copy

from conftest import Render, Workshop
from support import (
    ROOT,
    UV,
    Answers,
    AnyTags,
    clean_env,
    combinations,
    engine,
    label,
    proven_by,
    run,
    text_files,
    uv,
)

INSIDE = ROOT / "tests" / "inside"

COMBINATIONS = pytest.mark.parametrize(
    "answers",
    # What is tested of one project is tested by one process: the environment is made once.
    [
        pytest.param(each, id=label(each), marks=pytest.mark.xdist_group(label(each)))
        for each in combinations()
    ],
)

# Where projects share an engine, the first of them runs every test. In the others these files may differ, and
# those of conversations in steps be missing; the rest is the same, byte by byte, and a few tests run again.
MAY_DIFFER = {".copier-answers.yml", ".env.example", "README.md", "pyproject.toml", "bot/state/engine.py"}
OF_FLOWS = ("bot/flow/", "suite/flow/", "bot/state/aiogram_adopt.py")
RUN_AGAIN = [
    "suite/test_agent.py",
    "suite/test_cli.py",
    "suite/e2e/test_conversation.py",
]

# What stands in for the clouds is slow: what does not depend on the engine runs there with `--full` only.
OF_THE_ENGINE = [
    *RUN_AGAIN,
    "suite/contract",
    "suite/embedded",
    "suite/flow/test_steps.py",
    "suite/test_fsm.py",
    "suite/torture",
]

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
        is_plain_python = path.suffix == ".py" and name != "bot/state/engine.py"
        if not is_plain_python:
            assert not re.search(r"(?<!\$)\{\{(?!resolve:)|\{%|(?<!\$)\{#", text), f"{name}: Jinja left over"


@COMBINATIONS
def test_documents_parse(render: Render, answers: Answers) -> None:
    """Every TOML and YAML file parses, and the project is called what it was said to be called."""
    folder = render(**answers)
    parsed = documents(folder)
    assert parsed["pyproject.toml"]["project"]["name"] == "my-bot"
    assert parsed[".copier-answers.yml"][0]["project_name"] == "My Bot"


@COMBINATIONS
def test_compose_file_is_valid(render: Render, answers: Answers) -> None:
    """By the official schema; nothing runs as root, writes to its image or has a known password."""
    compose = render(**answers) / "compose.yaml"
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = run(sys.executable, "-m", "check_jsonschema", *schema, compose, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    text = compose.read_text("utf-8")
    described = yaml.safe_load(text)
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
def test_every_setting_is_explained(render: Render, answers: Answers) -> None:
    """The README names what the settings classes read, in a table of its own or in another's row."""
    folder = render(**answers)
    readme = (folder / "README.md").read_text("utf-8")
    found = 0
    for path in (folder / "bot").rglob("*.py"):
        classes = r"^class \w+\(Environment\):\n(.*?)(?=^\S|\Z)"
        for body in re.findall(classes, path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for name in re.findall(r"^    (\w+): .*= Field\(", body, re.MULTILINE):
                found += 1
                assert f"`{name.upper()}`" in readme, f"{path.name}: {name}"
    assert found > 15
    sample = (folder / ".env.example").read_text("utf-8")
    for name in re.findall(r"^#? ?([A-Z_]+)=", sample, re.MULTILINE):
        assert name in readme, name


@pytest.mark.parametrize("name", TRICKY_NAMES)
def test_tricky_names_stay_text(template: Path, render: Render, tmp_path: Path, name: str) -> None:
    """A name that looks like a number, a date or nothing is text in every file, as "My Bot" is."""
    usual = render()
    folder = tmp_path / "out"
    run_copy(
        str(template),
        folder,
        data={"project_name": name, "project_slug": "my-bot"},
        defaults=True,
        quiet=True,
        vcs_ref="HEAD",
    )
    assert shape(documents(folder)) == shape(documents(usual))
    for path in text_files(folder):
        relative = path.relative_to(folder)
        said = (usual / relative).read_text("utf-8").count("My Bot")
        assert path.read_text("utf-8").count(name) >= said, relative
        if path.suffix == ".py":
            compile(path.read_text("utf-8"), str(relative), "exec", dont_inherit=True)


@COMBINATIONS
def test_slug_cannot_be_a_dependency(workshop: Workshop, answers: Answers) -> None:
    """Every package the project may install is refused as a slug: none can need its namesake."""
    folder = workshop(answers)
    lock = tomllib.loads((folder / "uv.lock").read_text("utf-8"))
    installed = {package["name"] for package in lock["package"]} - {"my-bot"}
    listed = set((ROOT / "checks.jinja").read_text("utf-8").split("packages = '")[1].split("'")[0].split())
    assert installed <= listed, f"add to checks.jinja: {sorted(installed - listed)}"


@COMBINATIONS
@pytest.mark.parametrize(
    "command",
    ["ruff format --check --diff .", "ruff check .", "mypy"],
    ids=lambda text: text.split(" -")[0],
)
def test_rendered_code_is_clean(workshop: Workshop, answers: Answers, command: str) -> None:
    """Formatted, linted and strictly typed, by the project's own tools and settings."""
    uv(workshop(answers), "run", *command.split())


@COMBINATIONS
def test_rendered_suite_passes(
    render: Render,
    workshop: Workshop,
    answers: Answers,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> None:
    """The project's own tests pass; what they skipped and their number is shown in the end.

    Some have little patience, and this machine much to do: what fails runs once more, alone, and is named.
    """
    folder = workshop(answers)
    tests = suite_of(render, answers, full=pytestconfig.getoption("full"))
    command = (UV, "run", "pytest", "-q", "-rsfE")
    done = run(*command, *tests, cwd=folder, env=clean_env(), timeout=2400)
    printed = done.stdout
    lines = [line for line in printed.splitlines() if line.startswith("SKIPPED")]
    if os.environ.get("FIRESTORE_EMULATOR_INSTALLED"):  # .ci/run found it
        assert not [line for line in lines if "no Firestore emulator" in line], printed
    if done.returncode == 1:
        lines += [f"again: {name}" for name in re.findall(r"^(?:FAILED|ERROR) (\S+)", printed, re.MULTILINE)]
        uv(folder, "run", "pytest", "-q", "--last-failed", timeout=1200)
    else:
        assert done.returncode == 0, printed + done.stderr
    summary = printed.rstrip().splitlines()[-1]
    assert re.search(r"\b[1-9]\d* passed", summary), printed
    record_property("rendered suite", "\n".join([*lines, summary]))


def suite_of(render: Render, answers: Answers, *, full: bool) -> list[str]:
    """What pytest is told to run: everything, or what another project with the same engine does not prove."""
    other = proven_by(answers)
    if other is None:
        is_of_a_cloud = answers["backend"] == "fsm"
        return [*OF_THE_ENGINE, f"suite/{engine(answers)}"] if is_of_a_cloud and not full else []
    ours, theirs = render(**answers), render(**other)
    tests = [path.relative_to(ours) for path in sorted(ours.glob("suite/**/test_*.py"))]
    return RUN_AGAIN + [path.as_posix() for path in tests if not (theirs / path).exists()]


@pytest.mark.parametrize("answers", [each for each in combinations() if proven_by(each)], ids=label)
def test_what_is_not_tested_again_is_the_same(render: Render, answers: Answers) -> None:
    """Where projects share an engine, what one of them proves holds for all: their files are the same."""
    ours, theirs = render(**answers), render(**(proven_by(answers) or {}))
    shared = [path.relative_to(theirs) for path in text_files(theirs)]
    for path in shared:
        if path.as_posix() not in MAY_DIFFER and (ours / path).exists():
            assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path
    for folder in ("bot", "tests"):
        missing = [path for path in shared if path.parts[0] == folder and not (ours / path).exists()]
        assert [path for path in missing if not path.as_posix().startswith(OF_FLOWS)] == []

    # A provider's store is a subclass of the engine's; what it changes is tested in its own project.
    if not (ours / "bot/cloud").exists():
        stores = [(folder / "bot/state/engine.py").read_text("utf-8") for folder in (ours, theirs)]
        assert stores[0].partition("def add_commands")[0] == stores[1].partition("def add_commands")[0]
    needed = [
        set(documents(folder)["pyproject.toml"]["project"]["dependencies"]) for folder in (ours, theirs)
    ]
    assert needed[0] >= needed[1]
    assert set(RUN_AGAIN) <= {path.as_posix() for path in shared}


@pytest.mark.xdist_group(label(combinations()[0]))
@pytest.mark.parametrize("name", sorted(path.name for path in INSIDE.glob("test_*.py")))
def test_what_all_projects_share(workshop: Workshop, name: str) -> None:
    """Tests of files that are the same in every project, and too long a story to stand in each of them.

    That the fake Telegram keeps Telegram's rules, and that aiogram's models are the same however imported.
    """
    folder = workshop(combinations()[0])
    copy = f"suite/inside_{name}"
    shutil.copy(INSIDE / name, folder / copy)
    try:
        uv(folder, "run", "mypy", copy)
        uv(folder, "run", "pytest", "-q", copy)
    finally:
        (folder / copy).unlink()


@COMBINATIONS
def test_work_leaves_git_clean(workshop: Workshop, answers: Answers) -> None:
    """After all that, git shows nothing but the lock file, which is the owner's to commit."""
    status = run("git", "status", "--porcelain", cwd=workshop(answers)).stdout
    assert status in {"", "?? uv.lock\n"}
