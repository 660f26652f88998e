"""The pages agree with the code: what they name exists, what they show runs, and the site builds strictly."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import reference
from conftest import Render, Workshop
from support import QUESTIONS, ROOT, Answers, combinations, engine, label, run, text_files, uv

sys.path.insert(0, str(ROOT / "docs" / "pictures"))
import diagrams

EXAMPLES = ROOT / "docs" / "examples"
PAGES = sorted(
    [
        *(path for path in (ROOT / "docs").rglob("*.md") if "assets" not in path.parts),
        *(ROOT / name for name in ("README.md", "benchmarks/README.md")),
    ]
)
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
COMBINATIONS = pytest.mark.parametrize(
    "answers",
    [
        pytest.param(each, id=label(each), marks=pytest.mark.xdist_group(label(each)))
        for each in combinations()
    ],
)

MADE_UP = {"bot/steps"}
"""Paths that pages make up: what a reader may call a folder of their own."""

# Printed by a rendered project about itself, as JSON. Nothing is connected to.
ABOUT = r"""
import importlib, json, os, re
from pathlib import Path
for name in [name for name in os.environ if name.isupper() and name not in ("PATH", "HOME")]:
    os.environ.pop(name)
for path in Path("bot").rglob("*.py"):
    if re.search(r"\(Environment\):|(Counter|Gauge|Histogram)\(", path.read_text("utf-8")):
        importlib.import_module(".".join(path.with_suffix("").parts))
import typer
from prometheus_client import REGISTRY
from bot.runtime.cli import cli
from bot.runtime.config import Environment

def commands(command, path):
    if hasattr(command, "commands"):
        return [found for name, each in command.commands.items() for found in commands(each, [*path, name])]
    return [" ".join(path)]

settings = {}
for kind in Environment.__subclasses__():
    for name, field in kind.model_fields.items():
        value = field.default
        settings[name.upper()] = [None if value is None else str(value), field.description]
metrics = [metric.name + ("_total" if metric.type == "counter" else "") for metric in REGISTRY.collect()]
print(json.dumps({
    "settings": settings,
    "commands": commands(typer.main.get_command(cli), ["bot"]),
    "metrics": [name for name in metrics if name.startswith("bot_")],
}))
"""


def name_of(answers: Answers) -> str:
    """What `reference.answers_of` calls a combination."""
    if answers["backend"] == "fsm":
        return f"fsm-{answers['fsm_storage']}"
    return answers.get("cloud_provider", answers["backend"])


def about(folder: Path) -> dict[str, Any]:
    """What a rendered project says of its settings, commands and metrics."""
    found: dict[str, Any] = json.loads(uv(folder, "run", "python", "-c", ABOUT).splitlines()[-1])
    return found


@cache
def everything_rendered() -> frozenset[str]:
    """The path of every file that some project has, and of every folder."""
    paths = {
        path for name in reference.project_names() for path in reference.files(reference.answers_of(name))
    }
    return frozenset(paths | {parent.as_posix() for path in paths for parent in Path(path).parents})


def codes(text: str) -> Iterator[str]:
    """Every piece of code of a page: spans, and lines of blocks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (?![ *|-])(.+)$", text, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for block in [*blocks, *indented]:
        yield from block.splitlines()


# --- the site ---


def build(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a repository."""
    return run(sys.executable, "docs/build.py", folder, cwd=repository)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.xdist_group("site")
def test_site_builds(site: Path) -> None:
    """Every page is there, with nothing left to insert, and names no file that is missing."""
    for path in site.rglob("*.html"):
        html = path.read_text("utf-8")
        assert "insert:" not in html, path
        for source in re.findall(r'<(?:img|script)[^>]* src="?([^" >]+)', html):
            assert (path.parent / source).exists() or path.name == "404.html", f"{path}: {source}"
    pages = {path.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert {"index.html", "start/index.html", "settings/index.html"} <= pages
    assert {f"providers/{name}/index.html" for name in reference.choices("cloud_provider")} <= pages


@pytest.mark.xdist_group("site")
def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture of another server: who reads is nobody else's business."""
    for path in site.rglob("*.html"):
        html = path.read_text("utf-8")
        loaded = re.findall(r"<(?:img|script|iframe)[^>]* src=[\"']?(https?:)?//", html)
        loaded += re.findall(r"<link[^>]* href=[\"']?(?:https?:)?//[^>]*stylesheet|preconnect", html)
        assert not loaded, path
        assert 'data-md-component="source"' not in html, f"{path}: asks GitHub about the repository"
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?https?:", path.read_text("utf-8")), path


@pytest.mark.xdist_group("site")
@pytest.mark.parametrize(
    ("page", "addition", "complaint"),
    [
        ("docs/start.md", "[nowhere](nowhere.md)", "nowhere.md"),
        ("docs/start.md", "[no such heading](agent.md#nowhere)", "anchor"),
        ("docs/start.md", "<!-- insert: nothing -->", "nothing"),
        ("docs/start.md", "<!-- insert: readme redis No such heading -->", "No such heading"),
        ("docs/forgotten.md", "# A page that is not in the navigation", "forgotten.md"),
    ],
)
def test_build_refuses(template: Path, tmp_path: Path, page: str, addition: str, complaint: str) -> None:
    """What leads nowhere ends the build, and is named."""
    repository = tmp_path / "repository"
    shutil.copytree(template, repository, ignore=shutil.ignore_patterns(".git"))
    (repository / "examples").mkdir()  # the README leads there
    with (repository / page).open("a") as file:
        file.write(f"\n{addition}\n")
    done = build(repository, tmp_path / "site")
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr


def test_every_choice_has_a_page() -> None:
    """Each backend and each engine; providers' pages are made from what they render."""
    for name in {*reference.choices("backend"), *reference.engines()} - {"cloud"}:
        assert (ROOT / f"docs/backends/{name}.md").exists(), name


# --- what is generated is what a project says of itself ---


@COMBINATIONS
def test_files_are_known(render: Render, answers: Answers) -> None:
    """What the pages take for the files and texts of a project are those that Copier renders."""
    folder = render(**answers)
    known = reference.answers_of(name_of(answers))
    assert {**known} == {**known, **answers, "engine": engine(answers)}
    assert set(reference.files(known)) == {path.relative_to(folder).as_posix() for path in text_files(folder)}
    for name in ("README.md", "DEPLOY.md"):
        if (folder / name).exists():
            assert reference.rendered(name, known) == (folder / name).read_text("utf-8")


@COMBINATIONS
def test_reference_and_readme_agree_with_the_code(workshop: Workshop, answers: Answers) -> None:
    """Settings with their defaults, commands and metrics: on the site, and in the project's own README."""
    folder = workshop(answers)
    found = about(folder)
    readme = (folder / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*)$", reference.settings(), re.MULTILINE))
    in_readme = settings_table(readme)
    for name, (default, description) in found["settings"].items():
        meaning, shown, _ = listed[name].split(" | ", 2)
        assert meaning.replace("`", "") == (description or "").replace("`", ""), name
        if name not in ("NAMESPACE", "STATE_TTL"):  # the one is the slug, the other the engine's
            assert shown.strip("`").lower() == (default or "").lower(), name
            if default and in_readme.get(name):
                assert same_value(in_readme[name], default), f"{name}: {in_readme[name]} and {default}"
    if engine(answers) == "redis":
        assert in_readme["STATE_TTL"] == "86400"
        assert "`86400` in Redis" in listed["STATE_TTL"]

    assert set(found["commands"]) <= set(reference.command_names())
    for command in re.findall(r"`bot state ([a-z-]+)|\bbot state ([a-z-]+) ", readme):
        assert f"bot state {''.join(command)}" in found["commands"], command
    assert set(found["metrics"]) <= set(reference.metric_names())
    assert set(re.findall(r"`(bot_[a-z_]+)", readme)) <= set(found["metrics"])
    deploy = folder / "DEPLOY.md"
    added_by_owner = (
        re.findall(r"^git add (\S+)$", deploy.read_text("utf-8"), re.MULTILINE) if deploy.exists() else []
    )
    for path in re.findall(r"`((?:bot|tests|grafana|infra)/[\w./-]+)`", readme):
        assert (folder / path).exists() or path in added_by_owner, f"README.md: {path}"


def test_nothing_is_listed_that_no_project_has() -> None:
    """Commands and metrics of the pages stand in files that some project gets."""
    assert len(reference.command_names()) == len(set(reference.command_names()))
    for name, _ in reference.settings_classes():
        assert name in everything_rendered(), name


def settings_table(readme: str) -> dict[str, str]:
    """The defaults in a README's table of settings; rows of several names have several defaults, or none."""
    found: dict[str, str] = {}
    for names, default in re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| ([^|]*) \|", readme, re.MULTILINE):
        each = re.findall(r"`(\w+)`", names)
        values = (
            [value.strip(" `") for value in default.split(",")] if len(each) > 1 else [default.strip(" `")]
        )
        found.update(zip(each, values, strict=False))
    return found


def same_value(shown: str, default: str) -> bool:
    """Whether a cell shows a default; a sentence in its place says more than the value."""
    try:
        return float(shown) == float(default)
    except ValueError:
        return shown.lower() == default.lower() or " " in shown


# --- what pages name exists ---


@EACH_PAGE
def test_named_files_exist(page: Path) -> None:
    """Every path in code is a file of this repository, or of some rendered project."""
    for code in codes(page.read_text("utf-8")):
        for path in re.findall(
            r"(?<![\w/.<:-])((?:bot|tests|docs|template|benchmarks|grafana|infra|inside)/[\w/.-]*)(?![\w/.<{*-])",
            code,
        ):
            name = path.rstrip("./")
            places = [ROOT / name, ROOT / "benchmarks" / name]
            assert name in MADE_UP | everything_rendered() or any(place.exists() for place in places), path


@EACH_PAGE
def test_named_settings_exist(page: Path) -> None:
    """Every name in capitals with an underscore is a setting, or stands in the code."""
    known = {*reference.setting_names(), *names_in_code()}
    for code in codes(page.read_text("utf-8")):
        for name in re.findall(r"(?<![\w.])[A-Z][A-Z]+_[A-Z_]+\b", code):
            assert name in known, name


@EACH_PAGE
def test_named_commands_exist(page: Path) -> None:
    """Every `bot …` is a command, every `bot_…` a metric, every `./do …` works."""
    commands = {*reference.command_names(), "bot state"}
    for code in codes(page.read_text("utf-8")):
        for first, second in re.findall(r"(?:^|uv run |&& )bot ([a-z]+)(?: ([a-z-]+))?(?=\W|$)", code):
            if first == "state" and second:
                assert f"bot state {second}" in commands, code
            else:
                assert f"bot {first}" in commands, code
        for name in re.findall(r"(?<![\w./])bot_[a-z_]+\b(?!\.)", code):
            assert name in reference.metric_names() or name == "bot_token", code
        for name in re.findall(r"\./do ([a-z]+)", code):
            assert re.search(rf"^{name}\)", (ROOT / "do").read_text("utf-8"), re.MULTILINE), code
        for name in re.findall(r"--data ([a-z_]+)=", code):
            assert name in QUESTIONS, code


@cache
def names_in_code() -> frozenset[str]:
    """Every name in capitals in the sources."""
    found: set[str] = set()
    for folder in ("template", "tests", "benchmarks", "docs/examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".lua", ".yaml", ".jinja"} and ".venv" not in path.parts:
                found |= set(re.findall(r"[A-Z][A-Z]+_[A-Z_]+", path.read_text("utf-8")))
    return frozenset(found)


# --- what pages show ---


@EACH_PAGE
def test_code_shown_is_code_that_runs(page: Path) -> None:
    """Python on a page names the file it comes from, and stands there to the letter."""
    text = page.read_text("utf-8")
    for head, block in re.findall(r"^```(python.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        source = re.search(r'title="([^"]+)"', head)
        assert source, f"no title: {block}"
        path = ROOT / source[1]
        assert path.is_relative_to(EXAMPLES) or path.is_relative_to(ROOT / "template"), source[1]
        assert block in path.read_text("utf-8"), f"not in {source[1]}:\n{block}"


@pytest.mark.xdist_group(label({"backend": "redis"}))
def test_examples_work_in_a_project(workshop: Workshop) -> None:
    """The examples of the pages are clean by a project's own rules, and their tests pass there."""
    folder = workshop({"backend": "redis"})
    copies = {
        path: folder / ("suite/e2e" if path.name.startswith("test_") else "bot") / path.name
        for path in EXAMPLES.glob("*.py")
    }
    try:
        for source, copy in copies.items():
            shutil.copy(source, copy)
        names = [copy.relative_to(folder).as_posix() for copy in copies.values()]
        tests = [name for name in names if "/test_" in name]
        assert len(tests) * 2 == len(names), "each example has a test"
        uv(folder, "run", "ruff", "format", "--check", "--diff", *names)
        uv(folder, "run", "ruff", "check", *names)
        uv(folder, "run", "mypy", *names)
        uv(folder, "run", "pytest", "-q", *tests)
    finally:
        for copy in copies.values():
            copy.unlink(missing_ok=True)


def test_diagrams_are_as_drawn() -> None:
    """The diagrams are what their script draws."""
    for name, draw in diagrams.DIAGRAMS.items():
        message = "run: uv run python docs/pictures/diagrams.py"
        assert draw() == (ROOT / f"docs/assets/{name}.svg").read_text("utf-8"), message


def test_picture_shows_todays_session() -> None:
    """The recorded session has today's questions, choices and answers."""
    picture = (ROOT / "docs/assets/session.svg").read_text("utf-8")
    shown = re.sub(r"<[^>]+>", "", picture)
    message = "run: uv run python docs/pictures/session.py"
    for value, said in reference.choices("backend").items():
        assert re.search(rf"{value} +{re.escape(said)}", shown), f"{message}: {value} {said}"
    for name in ("project_name", "project_slug", "backend"):
        assert QUESTIONS[name]["help"].partition("\n")[0] in shown, message
    assert all(f"(#{number})" in shown for number in (1, 2, 3)), message


def test_readme_shows_first_things_first() -> None:
    """One sentence, a picture, two commands and the backends, before anything else; then measured numbers."""
    readme = (ROOT / "README.md").read_text("utf-8")
    parts = [
        "# ",
        "docs/assets/session.svg",
        "uvx copier copy",
        "bot chat",
        "| `backend` |",
        "| plain aiogram",
        "## ",
    ]
    places = [readme.index(part, 1 if part == "## " else 0) for part in parts]
    assert places == sorted(places)
    assert readme[: places[4]].count("\n") < 15
    offered = re.findall(r"^\| `(\w+)` \|", readme[places[4] + 5 : places[6]], re.MULTILINE)
    assert offered == list(reference.choices("backend"))


def test_readme_numbers_are_the_torture_suites() -> None:
    """What the README compares is what the page of the torture suite reports."""
    torture = (ROOT / "docs/torture.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (this template|plain aiogram), (\S.*?) \| (.*) \|$",
        (ROOT / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 4
    ours, naive = torture.split("## Whether it would notice")
    for who, mode, numbers in rows:
        part = ours if who == "this template" else naive
        (reported,) = re.findall(rf"^\| redis, {re.escape(mode)} \| (.*?) \|$", part, re.MULTILINE)
        assert reported.split(" | ")[:4] == numbers.split(" | ")
