"""The list of clauses and the tests belong together."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite.clauses import CLAUSES
from suite.parts import HERE, PARTS

pytestmark = pytest.mark.clause("kit.clauses")


def marks(file: Path) -> Iterator[str]:
    """The clauses that a file of tests names."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.clause":
            (name,) = node.args
            assert isinstance(name, ast.Constant), f"{file}:{node.lineno}: a name is to be found by reading"
            yield str(name.value)


def files() -> list[Path]:
    """Every file of tests, whether it applies to this bot or not."""
    return sorted(file for folder in PARTS["all"] for file in (HERE / folder).rglob("test_*.py"))


def test_every_clause_has_a_test() -> None:
    proven = {name for file in files() for name in marks(file)}
    assert CLAUSES.keys() - proven == set()


def test_every_mark_names_a_clause() -> None:
    unknown = {str(file): set(marks(file)) - CLAUSES.keys() for file in files()}
    assert {file: names for file, names in unknown.items() if names} == {}


def test_every_folder_belongs_to_a_part() -> None:
    """Else its tests would run in no part, and nobody would notice."""
    folders = {file.relative_to(HERE).parts[0] for file in HERE.rglob("test_*.py")}
    assert folders <= set(PARTS["all"])


def test_a_clause_is_one_sentence() -> None:
    for promise in CLAUSES.values():
        assert promise.endswith(".")
        assert len(promise) <= 90
