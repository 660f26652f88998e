"""The shape of the repository and of what it renders: files that fit every system, and which of them."""

import re
from pathlib import Path

import pytest

from conftest import Project, Render
from support import ROOT, Answers, combinations, engine, label, must, repository_files, tree

ANSWERS_FILE = "{{_copier_conf.answers_file}}.jinja"
AGENT, TEST_AGENT = "bot/agent.py.jinja", "tests/test_agent.py.jinja"
CHOSEN = "bot/runtime/chosen.py.jinja"
RESERVED_ON_WINDOWS = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(10)}


def test_paths_fit_every_system() -> None:
    """A clone works on Windows and on a Mac: no odd characters, no names that differ by case."""
    paths = repository_files()
    for path in paths:
        assert len(path) < 120, path
        for part in path.split("/"):
            assert not re.search(r'[<>:"|?*\\\x00-\x1f]', part), path
            assert part == part.rstrip(" ."), path
            assert part.split(".")[0].lower() not in RESERVED_ON_WINDOWS, path
            assert part.isascii(), path
    assert len({path.lower() for path in paths}) == len(paths)


def test_no_symlinks_and_unix_lines() -> None:
    """Every file is a plain one, is UTF-8 text, and ends its lines with LF."""
    for path in repository_files():
        file = ROOT / path
        assert not file.is_symlink(), path
        content = file.read_bytes()
        content.decode("utf-8")
        assert b"\r" not in content, path
        assert not content or content.endswith(b"\n"), path


def test_python_files_are_plain(template: Path) -> None:
    """Jinja in Python is confined to one file, and lines that choose one; all others are plain Python."""
    files = must("git", "ls-files", "-z", cwd=template / "template").rstrip("\0").split("\0")
    assert [path for path in files if path.endswith(".py.jinja")] == [AGENT, CHOSEN, TEST_AGENT]
    for path in (AGENT, TEST_AGENT):
        assert (template / "template" / path).read_text("utf-8").count("\n") == 1, "it includes another file"
    for path in files:
        assert path == ANSWERS_FILE or "{" not in path, "Jinja in a file name"
        if path.endswith(".py"):
            source = (template / "template" / path).read_text("utf-8")
            compile(source, path, "exec", dont_inherit=True)


PACKAGES = {"hybrid": {"memory", "redis", "postgres", "hybrid"}}
"""Engines that are made of others; the rest have a package each. The one in memory is always there."""

SHARED = {"redis": {"redis_address"}, "postgres": {"postgres_address", "postgres_doctor"}}
"""Modules of `bot/runtime/cloud/` that providers of an engine share."""

BESIDES = {
    "elasticache": {"aws_token"},
    "rds": {"aws_token", "rds_setup"},
    "supabase": {"supabase_migrations"},
}
"""Modules of `bot/runtime/cloud/` that a provider needs besides its own."""

DOES_WITHOUT = {"cloud_sql": {"postgres_address"}}

ALWAYS = {
    ".copier-answers.yml", ".env.example", ".gitignore", "Dockerfile", "README.md",
    "compose.yaml", "pyproject.toml",
}  # fmt: skip
"""Files at the top of every project. An AGENTS.md may join them."""

OF_FIRESTORE = {"firebase.json", "firestore.indexes.json", "firestore.rules"}


@pytest.mark.parametrize("answers", combinations(), ids=label)
def test_a_project_has_the_files_of_its_engine_and_provider(render: Render, answers: Answers) -> None:
    """Those, all of them, and nobody else's; and no empty folder."""
    folder, kind, provider = render(**answers), engine(answers), answers.get("cloud_provider")
    files = set(tree(folder))
    runtime = "bot/runtime/"
    template = {
        path.relative_to(ROOT / "template").as_posix().removesuffix(".jinja")
        for path in (ROOT / "template").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    def of(prefix: str, among: set[str]) -> set[str]:
        return {path for path in among if path.startswith(prefix)}

    engines = of(f"{runtime}engines/", files)
    packages = PACKAGES.get(kind, {"memory", kind})
    expected = {path for name in packages for path in of(f"{runtime}engines/{name}/", template)}
    expected |= {f"{runtime}engines/__init__.py"}
    expected |= {f"{runtime}engines/dev_server.py"} if kind not in ("memory", "postgres", "sqlite") else set()
    assert engines == expected
    assert all(of(f"{runtime}engines/{name}/", expected) for name in packages)

    modules: set[str] = set()
    if provider and provider != kind:
        modules = {"__init__", provider} | SHARED[kind] | BESIDES.get(provider, set())
        modules -= DOES_WITHOUT.get(provider, set())
    assert of(f"{runtime}cloud/", files) == {f"{runtime}cloud/{name}.py" for name in modules}

    infra = {path for path in of("infra/", files) if path != "infra/.gitattributes"}
    ours = {path for path in of("infra/", template) if re.match(rf"infra/{provider}[-._]", path)}
    assert infra == ours
    assert bool(infra) == bool(provider) == ("infra/.gitattributes" in files) == ("DEPLOY.md" in files)
    assert bool(of("supabase/", files)) == (provider == "supabase")
    assert bool(of("bot/flow/", files)) == (answers["backend"] == "fsm")
    top = {path for path in files if "/" not in path} - {"AGENTS.md", "DEPLOY.md"}
    assert top == ALWAYS | (OF_FIRESTORE if kind == "firestore" else set())

    # What is not spoken of above is in every project.
    elsewhere = ("engines/", "cloud/")
    common = {path for path in of(runtime, template) if not path[len(runtime) :].startswith(elsewhere)}
    assert {path for path in of(runtime, files) if not path[len(runtime) :].startswith(elsewhere)} == common
    assert not [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_every_file_belongs_somewhere(render: Render) -> None:
    """Each file of the template is rendered into some project."""
    rendered = {path for answers in combinations() for path in tree(render(**answers))}
    for path in must(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "template", cwd=ROOT
    ).split():
        name = path.removeprefix("template/").removesuffix(".jinja")
        if (ROOT / path).exists() and not name.startswith("{{"):
            assert name in rendered, path


def test_scripts_keep_unix_lines_in_a_clone_on_windows(project: Project, tmp_path: Path) -> None:
    """Git there makes CRLF of LF unless told otherwise, which Bash takes for a part of words."""
    folder = project({"backend": "cloud", "cloud_provider": "redis_cloud"})
    must("git", "clone", "--quiet", "--config", "core.autocrlf=true", folder, "clone", cwd=tmp_path)
    assert b"\r" in (tmp_path / "clone/README.md").read_bytes(), "that is what git does"
    for path in (tmp_path / "clone/infra").iterdir():
        assert b"\r" not in path.read_bytes(), path
    scripts = [name for name in repository_files() if name.startswith("template/") and name.endswith(".sh")]
    assert all(name.startswith("template/infra/") for name in scripts)
