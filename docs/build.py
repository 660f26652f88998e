"""Build the documentation site: `uv run python docs/build.py`, into `site/`; with `--serve`, watch it.

The pages are Markdown that can be read in the repository as it stands. On the way to the site they are copied
to `site/.pages`, where two things change:

- a line `<!-- insert: WHAT ARGUMENTS -->` is replaced by what `reference.py` reads from the template, or by
  what benchmarks/plot.py makes of measurements;
- links between files of the repository become links between pages, or to the repository where there is none.

Then Zensical builds them. A link that leads nowhere, an insertion that is unknown and a page that is missing
are errors.
"""

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

import reference
from reference import ROOT

REPOSITORY = "https://github.com/org/tg-state-template"

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contribute.md",
    "benchmarks/README.md": "how-it-is-measured.md",
}
"""Files that become pages under another name. Those in `docs/` keep theirs."""

INSERTIONS: dict[str, Callable[..., str]] = {
    "questions": reference.questions,
    "providers": reference.providers,
    "settings": reference.settings,
    "commands": reference.commands,
    "metrics": reference.metrics,
    "files": reference.tree,
    "tests": reference.tests_of,
    "measured": lambda name: measured(name),
    "plots": lambda *names: plots(*names),
}

MEASURED = ROOT / "docs" / "assets" / "benchmarks"
NOT_MEASURED = "Not measured yet: `uv run python benchmarks/run.py` does."

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
SOURCE = re.compile(r'(<img[^>]* src=")([^"]+)(")')
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


class PageError(Exception):
    """A page says something that cannot be built. The text names the page."""


def sources() -> dict[str, str]:
    """Every page: the path of its file in the repository, and its path on the site."""
    found = {path: page for path, page in PAGES.items() if (ROOT / path).exists()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("docs/assets/"):
            found[name] = name.removeprefix("docs/")
    for provider in reference.choices("cloud_provider"):
        found[f"docs/providers/{provider}.md"] = f"providers/{provider}.md"
    return found


def page(path: str, pages: dict[str, str]) -> str:
    """A page as the site shows it."""
    is_written = (ROOT / path).exists()
    text = (ROOT / path).read_text("utf-8") if is_written else provider_page(Path(path).stem)
    return made(text, path, pages)


def made(text: str, path: str, pages: dict[str, str]) -> str:
    """The text of a page with its links and insertions as the site has them.

    Args:
        text: what is written.
        path: the file that it stands for, from the root of the repository.
        pages: what `sources` returns.

    Raises:
        PageError: a link leads nowhere, or something cannot be inserted.
    """
    text = relinked(text, path, path, pages)

    def insert(match: re.Match[str]) -> str:
        what, *arguments = match[1].split()
        if what not in INSERTIONS:
            raise PageError(f"{path}: nothing called {what} can be inserted")
        try:
            inserted = INSERTIONS[what](*arguments)
        except (OSError, ValueError) as error:
            raise PageError(f"{path}: cannot insert {match[1]}: {error}") from error
        return relinked(inserted, "README.md", path, pages)  # what is made here links from the root

    return re.sub(r"^<!-- insert: (.+?) -->$", insert, text, flags=re.MULTILINE)


def provider_page(name: str) -> str:
    """How to deploy to a provider: what a project for it is told, in its `DEPLOY.md`."""
    answers = reference.answers_of(name)
    title, _, rest = reference.rendered("DEPLOY.md", answers).partition("\n")
    said = reference.choices("cloud_provider")[name]
    engine = answers["engine"]
    return (
        f"{title}\n\n"
        f"What follows is `DEPLOY.md` of a project with `backend: cloud` and `cloud_provider: {name}` "
        f"({said}). What is kept where, and what that engine promises: [{engine}](../backends/{engine}.md).\n"
        f"{rest}"
    )


def relinked(text: str, base: str, path: str, pages: dict[str, str]) -> str:
    """The text of the file `base`, its links as they have to be on the page made from `path`."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(base), target))
        here = posixpath.dirname(pages[path])
        if wanted in pages:
            found = posixpath.relpath(pages[wanted], here)
        elif wanted.startswith("docs/assets/") and (ROOT / wanted).exists():
            found = posixpath.relpath(wanted.removeprefix("docs/"), here)
            if match[1].startswith("<"):  # not Markdown: nobody turns it into an address
                is_index = posixpath.basename(pages[path]) == "index.md"
                found = found if is_index else posixpath.join("..", found)
        elif (ROOT / wanted).exists():
            found = f"{REPOSITORY}/blob/main/{wanted}"
        elif base.startswith("template/") or base.startswith("docs/providers/"):
            inside = posixpath.normpath(posixpath.join("template", target))
            source = inside if (ROOT / inside).exists() else f"{inside}.jinja"
            if not (ROOT / source).exists():
                raise PageError(f"{path}: link to {target}, which is not in a rendered project")
            found = f"{REPOSITORY}/blob/main/{source}"
        else:
            raise PageError(f"{path}: link to {target}, which is not there")
        return f"{match[1]}{found}{'#' + anchor if anchor else ''}{match[3]}"

    text = CODE.sub(keep, text)
    text = SOURCE.sub(link, LINK.sub(link, text))
    while "\0" in text:  # a link's text may be code
        text = re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)
    return text


def measured(name: str) -> str:
    """A table that benchmarks/plot.py makes of `results.json`."""
    path = MEASURED / name
    return path.read_text("utf-8").strip("\n") if path.exists() else NOT_MEASURED


def plots(*names: str) -> str:
    """Plots that benchmarks/plot.py draws: those named, or all, by name."""
    drawn = sorted(MEASURED.glob("*.svg"))
    shown = [
        f"![{_title(path)}](docs/assets/benchmarks/{path.name})"
        for path in drawn
        if not names or path.stem in names
    ]
    return "\n\n".join(shown) or NOT_MEASURED


def _title(plot: Path) -> str:
    title = re.search(r"<title>(.*?)</title>", plot.read_text("utf-8"))
    return title[1] if title else plot.stem


def configuration(pages: dict[str, str]) -> dict[str, object]:
    """`mkdocs.yml` for the copied pages. A folder in its navigation stands for all pages in it."""
    config: dict[str, object] = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    known = set(pages.values())
    listed: set[str] = set()

    def walk(entries: list[dict[str, object]]) -> list[dict[str, object]]:
        made: list[dict[str, object]] = []
        for entry in entries:
            ((title, target),) = entry.items()
            if isinstance(target, list):
                made.append({title: walk(target)})
            elif isinstance(target, str) and target.endswith("/"):
                for provider in reference.choices("cloud_provider"):
                    made.append({provider: f"{target}{provider}.md"})
                    listed.add(f"{target}{provider}.md")
            elif isinstance(target, str):
                if target not in known:
                    raise PageError(f"mkdocs.yml: {target} is no page: these are {', '.join(sorted(known))}")
                listed.add(target)
                made.append(entry)
        return made

    nav = config["nav"]
    assert isinstance(nav, list)
    config["nav"] = walk(nav)
    if known - listed:
        raise PageError(f"mkdocs.yml: not in nav: {', '.join(sorted(known - listed))}")
    return config | {"docs_dir": ".pages", "site_dir": "html"}


def assemble(folder: Path) -> None:
    """Put everything that Zensical needs into a folder."""
    pages = sources()
    config = yaml.safe_dump(configuration(pages), sort_keys=False, allow_unicode=True)
    shutil.rmtree(folder / ".pages", ignore_errors=True)
    for path, name in pages.items():
        target = folder / ".pages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(path, pages), "utf-8")
    shutil.copytree(
        ROOT / "docs" / "assets", folder / ".pages" / "assets", ignore=shutil.ignore_patterns("*.md")
    )
    (folder / "mkdocs.yml").write_text(config, "utf-8")


def zensical(folder: Path, *command: str) -> int:
    """Have Zensical build or serve what was assembled in a folder. Returns its exit code."""
    config = folder.resolve() / "mkdocs.yml"
    done = subprocess.run(
        [sys.executable, "-m", "zensical", *command, "-f", str(config)], check=False, env=os.environ
    )
    return done.returncode


def main() -> int:
    """Assemble the pages, and have Zensical build or serve them."""
    parser = argparse.ArgumentParser(description="Build the documentation site into FOLDER/html.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site")
    parser.add_argument(
        "--serve", action="store_true", help="serve it, as it is now, on http://localhost:8000"
    )
    arguments = parser.parse_args()
    try:
        assemble(arguments.folder)
    except PageError as error:
        print(f"docs/build.py: {error}", file=sys.stderr)
        return 1
    return zensical(arguments.folder, *(["serve"] if arguments.serve else ["build", "--strict"]))


if __name__ == "__main__":
    sys.exit(main())
