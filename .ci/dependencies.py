"""Admit the newest release of every dependency whose range ends below it.

`.github/workflows/dependencies.yml` runs it. Ranges without an end take new releases anyway; and where ranges
begin is not touched: the tests run the rendered bots at both ends (tests/test_dependencies.py).
"""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "pyproject.toml", ROOT / "template/pyproject.toml.jinja"]

RANGE = re.compile(
    r'"(?P<name>[a-z0-9_-]+)(?P<extras>\[[a-z,]+\])?>=(?P<begin>[0-9.]+),<(?P<end>[0-9.]+)(?P<rest>[^"]*)"'
)


def names(text: str) -> set[str]:
    """The packages whose range has an end."""
    return {normal(match["name"]) for match in RANGE.finditer(text)}


def normal(name: str) -> str:
    """The name as package indexes write it."""
    return name.replace("_", "-")


def newest(packages: set[str]) -> dict[str, str]:
    """The newest release of each package that suits the oldest Python the bots support, as uv finds it."""
    options = ["--quiet", "--no-deps", "--no-header", "--no-annotate", "--python-version=3.11"]
    printed = subprocess.run(
        ["uv", "pip", "compile", *options, "-"],
        input="\n".join(sorted(packages)),
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    return dict(line.split("==") for line in printed.split())


def widened(text: str, releases: Mapping[str, str]) -> str:
    """The text with each range ended after the release, by as many digits as it ended before."""

    def widen(match: re.Match[str]) -> str:
        digits = [int(digit) for digit in match["end"].split(".")]
        release = [int(digit) for digit in re.findall(r"\d+", releases[normal(match["name"])])]
        if release[: len(digits)] < digits:
            return match[0]
        end = [*release[: len(digits) - 1], release[len(digits) - 1] + 1]
        dotted = ".".join(map(str, end))
        return f'"{match["name"]}{match["extras"] or ""}>={match["begin"]},<{dotted}{match["rest"]}"'

    return RANGE.sub(widen, text)


def main() -> None:
    """Rewrite the files, and say which ranges are wider now."""
    texts = {path: path.read_text("utf-8") for path in FILES}
    releases = newest(set().union(*map(names, texts.values())))
    for path, text in texts.items():
        new = widened(text, releases)
        for line in sorted(set(new.splitlines()) - set(text.splitlines())):
            print(f"{path.relative_to(ROOT)}: {line.strip()}")
        path.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
