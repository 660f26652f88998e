"""The pages agree with the code: what they name exists, what they show runs, and the site builds strictly."""

import ast
import io
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations

import build
import reference
from conftest import Render
from suite.what_comes_in import content_table, update_table
from support import (
    QUESTIONS,
    ROOT,
    Answers,
    clean_env,
    combinations,
    engine,
    first_of_each_engine,
    label,
    run,
    text_files,
)

sys.path.insert(0, str(ROOT / "docs" / "pictures"))
import diagrams

EXAMPLES = ROOT / "docs" / "examples"
CODE = (EXAMPLES, ROOT / "template", ROOT / "llm")
"""Where the code stands that pages show."""

PAGES = sorted(
    [
        *(path for path in (ROOT / "docs").rglob("*.md") if "assets" not in path.parts),
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "template/AGENTS.md")
        ),
    ]
)
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())

SOME = [
    *first_of_each_engine().values(),
    *({"backend": "cloud", "cloud_provider": p} for p in ("rds", "supabase")),
]
COMBINATIONS = pytest.mark.parametrize("answers", combinations(), ids=label)

MADE_UP = {
    "bot/runtime/cloud/rds.pem",
    "bot/runtime/cloud/supabase.pem",
    "migrations",
    "migrations/app_0001.py",
}
"""What pages ask the reader to add."""

LONGEST_README, LONGEST_AGENTS = 120, 45

# Printed about the runtime with every engine and provider in one place, as JSON. Nothing is connected to.
ABOUT = r"""
import importlib, json, re
from pathlib import Path
for path in Path("bot/runtime").rglob("*.py"):
    if re.search(r"\(Environment\):|(Counter|Gauge|Histogram)\(", path.read_text("utf-8")):
        importlib.import_module(".".join(path.with_suffix("").parts))
import typer
from prometheus_client import REGISTRY
from bot.runtime.chosen import ENGINE
from bot.runtime.cli import cli
from bot.runtime.config import Environment
from bot.runtime.state_commands import state
for path in Path("bot/runtime/engines").glob("*/commands.py"):
    if path.parent.name != ENGINE:  # whose own are there
        importlib.import_module(".".join(path.with_suffix("").parts)).add_commands(state, None)

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


@pytest.fixture(scope="module")
def about(render: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the code says of its settings, commands and metrics: all engines and providers at once."""
    folder = tmp_path_factory.mktemp("about")
    shutil.copytree(ROOT / "template/bot/runtime", folder / "bot/runtime")
    chosen = "bot/runtime/chosen.py"
    shutil.copy(render(backend="hybrid") / chosen, folder / chosen)  # the engine with a command of its own
    env = {"PATH": clean_env()["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)}
    done = run(sys.executable, "-c", ABOUT, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    done = run(sys.executable, "docs/build.py", folder, cwd=ROOT)
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
    assert json.loads((site / "assets/grafana-dashboard.json").read_text("utf-8"))["panels"]


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


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[nowhere](nowhere.md)", "docs/start.md: link to nowhere.md, which is not there"),
        ("<!-- insert: nothing -->", "docs/start.md: nothing called nothing can be inserted"),
        ("<!-- insert: files neither bot/flow -->", "neither is neither a backend nor a provider"),
    ],
)
def test_a_page_is_refused(text: str, complaint: str) -> None:
    """What leads nowhere ends the build, and is named."""
    with pytest.raises(build.PageError, match=re.escape(complaint)):
        build.made(f"# Start\n\n{text}\n", "docs/start.md", build.sources())


def test_a_page_outside_of_the_navigation_is_refused() -> None:
    with pytest.raises(build.PageError, match=r"not in nav: forgotten\.md"):
        build.configuration(build.sources() | {"docs/forgotten.md": "forgotten.md"})


def test_a_page_in_the_navigation_that_is_not_there_is_refused() -> None:
    pages = {path: page for path, page in build.sources().items() if page != "agent.md"}
    with pytest.raises(build.PageError, match=r"agent\.md is no page"):
        build.configuration(pages)


def test_a_heading_that_is_not_there_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Links to headings are Zensical's to check: here, on a site of two pages."""
    pages = tmp_path / ".pages"
    pages.mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: two\ndocs_dir: .pages\nsite_dir: html\n")
    (pages / "two.md").write_text("# Two\n\n## A heading\n")
    (pages / "index.md").write_text("# One\n\n[there](two.md#a-heading)\n")
    assert build.zensical(tmp_path, "build", "--strict") == 0
    (pages / "index.md").write_text("# One\n\n[there](two.md#nowhere)\n")
    assert build.zensical(tmp_path, "build", "--strict") != 0
    assert "anchor does not exist" in "".join(capfd.readouterr())


def test_the_build_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "PAGES", build.PAGES | {"LICENSE": "licence.md"})
    monkeypatch.setattr(sys, "argv", ["build.py", str(tmp_path)])
    assert build.main() == 1
    assert capsys.readouterr().err == "docs/build.py: mkdocs.yml: not in nav: licence.md\n"


def test_every_choice_has_a_page() -> None:
    """Each backend and each engine; providers' pages are made from what they render."""
    for name in {*reference.choices("backend"), *reference.engines()} - {"cloud"}:
        assert (ROOT / f"docs/backends/{name}.md").exists(), name


# --- what is generated is what a project says of itself ---


@pytest.mark.parametrize("answers", SOME, ids=label)
def test_files_are_known(render: Render, answers: Answers) -> None:
    """What the pages take for the files and texts of a project are those that Copier renders."""
    folder = render(**answers)
    known = reference.answers_of(name_of(answers))
    assert {**known} == {**known, **answers, "engine": engine(answers)}
    assert set(reference.files(known)) == {path.relative_to(folder).as_posix() for path in text_files(folder)}
    for name in ("README.md", "DEPLOY.md"):
        if (folder / name).exists():
            assert reference.rendered(name, known) == (folder / name).read_text("utf-8")


def test_reference_agrees_with_the_code(about: dict[str, Any]) -> None:
    """Settings with their defaults, commands and metrics are on the site, and nothing else."""
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*)$", reference.settings(), re.MULTILINE))
    assert listed.keys() == about["settings"].keys() == {*reference.setting_names()}
    for name, (default, description) in about["settings"].items():
        meaning, shown, _ = listed[name].split(" | ", 2)
        assert plain(meaning) == plain(reference.sentence(description or "")), name
        if name not in ("NAMESPACE", "STATE_TTL"):  # the one is the slug, the other the engine's
            assert shown.strip("`").lower() == (default or "").lower(), name
    assert "`86400` in Redis" in listed["STATE_TTL"]
    assert sorted(about["commands"]) == sorted(reference.command_names())
    assert sorted(about["metrics"]) == sorted(reference.metric_names())


def test_nothing_is_listed_that_no_project_has() -> None:
    """Settings stand in files that some project gets."""
    for name, _ in reference.settings_classes():
        assert name in everything_rendered(), name


def test_agents_is_short() -> None:
    assert len((ROOT / "template/AGENTS.md").read_text("utf-8").splitlines()) <= LONGEST_AGENTS


@COMBINATIONS
def test_readme_of_a_project(answers: Answers) -> None:
    """It is short, names what this project has and nothing of a backend that was not chosen."""
    known = reference.answers_of(name_of(answers))
    files = {*reference.files(known)}
    folders = {parent.as_posix() for path in files for parent in Path(path).parents}
    readme = reference.rendered("README.md", known)
    assert len(readme.splitlines()) <= LONGEST_README
    sample = reference.rendered(".env.example", known)
    settings = {*names_of_settings(files), *re.findall(r"^#? ?([A-Z_]+)=", sample, re.MULTILINE)}
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)\b", readme):
        assert name in settings, name
    commands = {*reference.command_names(), "bot state", "bot jobs"}
    if known["engine"] != "hybrid":
        commands -= {"bot state flush"}
    if known["engine"] != "sqlite":
        commands -= {"bot state backup"}
    for command in re.findall(r"(?:uv run |`)(bot (?:(?:state|jobs) [a-z]+|[a-z]+))", readme):
        assert command in commands, command
    for path in re.findall(r"`((?:bot|tests|migrations|infra|supabase)/[\w./-]*)`", readme):
        assert path.rstrip("/") in files | folders | MADE_UP, path
    for page in re.findall(r"tg-state-template/blob/main/([\w./-]+)\)", readme):
        assert (ROOT / page).exists(), page
    others = {*reference.engines()} - {known["engine"], "memory"}
    if known["engine"] == "hybrid":
        others -= {"redis", "postgres"}
    for other in others:
        assert f"backends/{other}.md" not in readme


def plain(text: str) -> str:
    """A text without marks of code."""
    return text.replace("`", "").replace("&lt;", "<")


def names_of_settings(files: set[str]) -> Iterator[str]:
    """The settings of a project with these files."""
    for path, node in reference.settings_classes():
        if path in files:
            for field in node.body:
                yield from re.findall(r"^(\w+): ", ast.unparse(field).upper())


# --- what pages name exists ---


@EACH_PAGE
def test_named_files_exist(page: Path) -> None:
    """Every path in code is a file of this repository, or of some rendered project."""
    for code in codes(page.read_text("utf-8")):
        for path in re.findall(
            r"(?<![\w/.<:-])((?:bot|tests|suite|tools|docs|template|providers|migrations|benchmarks|infra|inside)/[\w/.-]*)(?![\w/.<{*-])",
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
    commands = {*reference.command_names(), "bot state", "bot jobs"}
    for code in codes(page.read_text("utf-8")):
        for first, second in re.findall(r"(?:^|uv run |&& )bot ([a-z]+)(?: ([a-z-]+))?(?=\W|$)", code):
            if first in ("state", "jobs") and second:
                assert f"bot {first} {second}" in commands, code
            else:
                assert f"bot {first}" in commands, code
        for name in re.findall(r"(?<![\w./])bot_[a-z_]+\b(?!\.)", code):
            assert name in reference.metric_names() or name == "bot_token", code
        for name in re.findall(r"\./do ([a-z]+)", code):
            assert re.search(rf"^\./do {name} ", (ROOT / "do").read_text("utf-8"), re.MULTILINE), code
        for name in re.findall(r"--data ([a-z_]+)=", code):
            assert name in QUESTIONS, code


def test_what_troubleshooting_quotes_is_what_the_bot_says() -> None:
    """Each message in the first column stands in the runtime, but for what it fills in."""
    said: set[str] = set()
    for path in [*(ROOT / "template/bot").rglob("*.py"), *(ROOT / "providers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                said.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    quoted = [code for row in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE) for code in codes(row)]
    assert len(quoted) > 20
    for text in quoted:
        if text not in reference.metric_names() and not text.startswith("/"):
            filled_in = re.sub(r"\b(sqlite|redis|postgres)\b", "{}", text)
            assert any(filled_in in each for each in said), text


@cache
def names_in_code() -> frozenset[str]:
    """Every name in capitals in the sources."""
    found: set[str] = set()
    for folder in ("template", "suite", "tests", "benchmarks", "docs/examples"):
        for path in (ROOT / folder).rglob("*"):
            is_code = path.suffix in {".py", ".lua", ".yaml", ".jinja"} or path.name == "Dockerfile"
            if is_code and ".venv" not in path.parts:
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
        assert any(path.is_relative_to(folder) for folder in CODE), source[1]
        assert block in path.read_text("utf-8"), f"not in {source[1]}:\n{block}"


def test_what_comes_in_is_what_is_tested() -> None:
    """The tables are those that the kit compares with a running bot."""
    page = (ROOT / "docs/what-comes-in.md").read_text("utf-8")
    for table in (content_table(), update_table()):
        assert table in page, "run: uv run python -m suite.what_comes_in"


def test_examples_work_in_a_project(render: Render, tmp_path: Path) -> None:
    """The examples of the pages are clean by a project's own rules, and their tests pass there."""
    folder = tmp_path / "project"
    shutil.copytree(render(backend="redis"), folder)
    shutil.rmtree(folder / "tests")
    (folder / "tests").mkdir()
    (folder / "tests/conftest.py").write_text('pytest_plugins = ["bot.runtime.testing"]\n')
    handler, test = snippets(folder / "README.md")
    shown = {"from_readme.py": HANDLER_HEAD + handler, "test_from_readme.py": TEST_HEAD + test}
    shown |= {path.name: path.read_text("utf-8") for path in EXAMPLES.glob("*.py")}
    names = [f"tests/{name}" if name.startswith("test_") else f"bot/{name}" for name in shown]
    examples = {name for name in shown if not name.startswith("test_")}
    assert {*shown} - examples == {f"test_{name}" for name in examples}, "each has a test"
    for name, code in zip(names, shown.values(), strict=True):
        (folder / name).write_text(code, "utf-8")
    for command in (
        ("ruff", "format", "--check", "--diff", *names),
        ("ruff", "check", *names),
        ("mypy", *names),
        ("pytest", "-q"),
    ):
        done = in_project(folder, *command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for name, code in shown.items():
        imported = re.findall(r"^(?:from|import) (bot\.runtime[\w.]*)", code, re.MULTILINE)
        wrong = {
            each
            for each in imported
            if not each.startswith(("bot.runtime.testing", "bot.runtime.frameworks."))
        }
        assert not wrong, f"{name}: what is not for owners"


HANDLER_HEAD = """\
\"\"\"Shown by the README.\"\"\"

from typing import Any

from aiogram import F
from aiogram.methods import TelegramMethod
from aiogram.types import Message

from bot.handlers import after


"""

TEST_HEAD = """\
\"\"\"Shown by the README.\"\"\"

from bot.runtime.testing import Chat


"""


def snippets(readme: Path) -> list[str]:
    """The functions that a project's README shows."""
    blocks = re.findall(r"(?:^ {4}.*\n)+", readme.read_text("utf-8"), re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks if "def " in block]


def in_project(folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool in a rendered project, in the environment that this test runs in."""
    env = clean_env(PYTHONPATH=str(folder), MYPY_CACHE_DIR=str(ROOT / ".mypy_cache/rendered"))
    return run(sys.executable, "-m", tool, *arguments, cwd=folder, env=env, timeout=300)


def test_the_migration_that_is_shown() -> None:
    """Alembic takes it, and makes its table."""
    migration = runpy.run_path(str(EXAMPLES / "migrations/app_0001.py"))
    assert migration["branch_labels"] == ("app",)
    written = io.StringIO()
    options = {"as_sql": True, "output_buffer": written}
    with Operations.context(MigrationContext.configure(dialect_name="postgresql", opts=options)):
        migration["upgrade"]()
    assert "CREATE TABLE note" in written.getvalue()


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
        "| **this template, sqlite** |",
        "## ",
    ]
    places = [readme.index(part, 1 if part == "## " else 0) for part in parts]
    assert places == sorted(places)
    assert readme[: places[4]].count("\n") < 15
    offered = re.findall(r"^\| `(\w+)` \|", readme[places[4] + 5 : places[6]], re.MULTILINE)
    assert offered == list(reference.choices("backend"))
