"""Every error that a bot can show to whoever runs it, of all engines and providers.

`messages.txt` lists them as they stand in the code. A new one, or one with new words, fails here until it
is in the list: `.venv/bin/python tests/test_messages.py` writes it, and whoever commits that reads what is
new. What takes no server is provoked in `suite/behaviour/test_messages.py`, the rest by the engines' tests.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("messages")  # one process reads the code

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("messages.txt")

LAST_WORD = {"OperatorError", "StateError", "StateForeign", "Finding", "ValueError"}
"""What is printed as it is, and so has to say what to do."""

REASONS = {"StateUnavailable"}
"""What is printed with the advice of `unusable` behind it."""

WRAPPED = {
    "bad settings: {'; '.join(faults)}",
    "bad settings: {error}",
    "the database's certificate cannot be verified: {otherwise}",
    "the {store.name} store cannot be used: {error}",
    "the {store} store cannot be used: {error}{advice}",
    "{api.scheme.upper()}_PROXY or ALL_PROXY: {error}",
}
"""What is filled in says what to do."""


@cache
def messages() -> dict[str, str]:
    """By text, what is raised with it; what is filled in stands in braces."""
    trees = {
        path: ast.parse(path.read_text("utf-8"))
        for folder in ("template/bot", "providers")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    constants = {
        target.id: node.value
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }

    def text(node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.JoinedStr(values=values):
                return "".join(map(text, values))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return text(left) + text(right)
            case ast.Name(id=name) if name.isupper() and name in constants:
                return text(constants[name])
            case ast.Attribute(attr="missing"):
                return text(constants["missing"])
            case ast.FormattedValue(value=value):
                return f"{{{ast.unparse(value)}}}"
            case _:
                return f"{{{ast.unparse(node)}}}"

    def raised(tree: ast.AST, in_validator: bool = False) -> Iterator[tuple[str, str]]:
        for node in ast.iter_child_nodes(tree):
            is_validator = in_validator
            if isinstance(node, ast.FunctionDef):
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                is_validator = "validator" in decorators or node.name == "check_proxy"
            if isinstance(node, ast.Call) and node.args:
                kind, first = ast.unparse(node.func), node.args[0]
                if kind == "Finding":
                    is_error = isinstance(first, ast.Constant) and first.value == "error"
                    kind, first = (kind, node.args[1]) if is_error else ("", first)
                if kind in LAST_WORD | REASONS and (kind != "ValueError" or is_validator):
                    yield text(first), kind
            yield from raised(node, is_validator)

    found = {said: kind for tree in trees.values() for said, kind in raised(tree)}
    return {said: kind for said, kind in found.items() if re.search(r"[a-z]", re.sub(r"\{[^}]*\}", "", said))}


def listed() -> str:
    return "".join(f"{said}\n" for said in sorted(messages()))


def test_every_message_is_listed() -> None:
    assert LIST.read_text("utf-8") == listed(), "write the list anew, and read what has changed"


@cache
def what_to_do() -> re.Pattern[str]:
    """The pattern of the kit's own test."""
    source = (ROOT / "suite/behaviour/test_messages.py").read_text("utf-8")
    (value,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WHAT_TO_DO"
    )
    assert isinstance(value, ast.Call)
    return re.compile(ast.literal_eval(value.args[0]))


@pytest.mark.parametrize("said", LIST.read_text("utf-8").splitlines())
def test_a_message_is_a_line_that_says_what_to_do(said: str) -> None:
    assert "\n" not in said
    assert not said.removesuffix("...").endswith((".", "!", " "))
    assert not re.search(r"\b(invalid|illegal|failed to|oops|please)\b", said, re.IGNORECASE)
    if messages().get(said) in LAST_WORD and said not in WRAPPED:
        assert what_to_do().search(re.sub(r"\{[^}]*\}", "", said)), "and now?"


if __name__ == "__main__":
    LIST.write_text(listed(), "utf-8")
