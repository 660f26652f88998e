"""The versions of `releases.toml`, as this clone's history has them."""

import tomllib
from pathlib import Path

import yaml

from support import ROOT, Questions, commit_all, copy_working_tree, must, questions_of, run

VERSIONS: dict[str, str] = tomllib.loads((ROOT / "releases.toml").read_text("utf-8"))["versions"]
"""The commit of each version, oldest version first."""

HEAD = "999999.0.0"
"""The version that a history gives to the working tree: newer than all others."""

FORGETFUL = {"memory"}
"""Engines that keep nothing beyond the running bot."""

NOT_HERE = "this clone has no commit of that version: git fetch --unshallow"


def is_shallow() -> bool:
    """Whether this clone was made without its history, so that old versions may be missing."""
    return must("git", "rev-parse", "--is-shallow-repository", cwd=ROOT).strip() == "true"


def is_here(version: str) -> bool:
    """Whether this clone has that version."""
    return run("git", "cat-file", "-e", f"{VERSIONS[version]}^{{commit}}", cwd=ROOT).returncode == 0


def questions_at(version: str) -> Questions:
    """The questions as that version asked them."""
    config = must("git", "show", f"{VERSIONS[version]}:copier.yml", cwd=ROOT)
    return questions_of(yaml.safe_load(config))


def make_history(folder: Path) -> None:
    """Clone this repository, with a tag on every version that is here, and one on the working tree."""
    must("git", "clone", "--quiet", "--no-tags", "--no-checkout", ROOT, folder, cwd=ROOT)
    for version, commit in VERSIONS.items():
        if is_here(version):
            must("git", "tag", version, commit, cwd=folder)
    copy_working_tree(folder)
    commit_all(folder, "The working tree", tag=HEAD)
