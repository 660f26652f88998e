"""Which module of a rendered bot imports which: downwards only, without cycles, and nothing that is private.

The graph is that of all engines and providers together. Imports within functions and for type checkers only
count like any other, and so do the names of modules in `import_module("...")`.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support import ROOT

Sources = Mapping[str, str]
"""Module name to source code."""
Arrow = tuple[str, str]

LAYERS = (
    ("errors", "metrics", "chosen"),
    ("config",),
    ("logs",),
    ("state.codec",),
    ("state.record", "state.shape"),
    ("state.store",),
    ("state.jobs",),
    ("state.turn",),
    ("state.fsm", "state.transfer"),
    ("engines.dev_server",),
    ("engines.*.*",),
    ("cloud.*",),
    ("engines",),  # makes the store that was chosen, of an engine or a provider
    ("telegram.*", "frameworks.*"),
    ("health", "doctor"),
    ("app",),
    ("state_commands", "chat", "broadcast", "testing"),
    ("cli",),
)
"""The modules of `bot.runtime`, lowest first. A module imports from its own layer and from those below."""

OWNERS = ("bot.agent", "bot.handlers", "bot.flow")
OPEN_TO_OWNERS = ("bot.agent_adapter", "bot.runtime.testing", "bot.runtime.frameworks", *OWNERS)
BUILT_ON = {"hybrid": {"redis", "postgres"}}
"""Engines that consist of others. Any other engine stands alone."""


def sources_of(bot: Path) -> Sources:
    """Every module below the folder `bot`."""
    found = {}
    for path in sorted([*bot.rglob("*.py"), *bot.rglob("*.py.jinja")], reverse=True):
        parts = path.relative_to(bot.parent).with_name(path.name.removesuffix(".jinja")).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        found[module] = "" if path.suffix == ".jinja" else path.read_text(encoding="utf-8")
    return found


def is_part_of(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports_of(tree: ast.AST, package: str = "") -> Iterator[tuple[str, str | None]]:
    """The modules that code of a package imports, each with the name taken from it, if one is."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from ((alias.name, None) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.rsplit(".", level - 1)[0] if level else ""
                name = ".".join(filter(None, (base, module)))
                yield from ((name, alias.name) for alias in names)
            case ast.Call(func, [ast.Constant(value=str(module)), *_]) if "import_module" in ast.dump(func):
                yield module, None


def package_of(module: str, sources: Sources) -> str:
    """The package that relative imports of a module start from."""
    is_package = any(other.startswith(f"{module}.") for other in sources)
    return module if is_package else module.rpartition(".")[0]


def arrows_of(sources: Sources) -> set[Arrow]:
    """Who imports whom."""
    arrows = set()
    for module, source in sources.items():
        for imported, name in imports_of(ast.parse(source), package_of(module, sources)):
            target = f"{imported}.{name}" if f"{imported}.{name}" in sources else imported
            if is_part_of(target, "bot"):
                assert target in sources, f"{module} imports {target}, which is not there"
                arrows.add((module, target))
    return arrows


def cycle_in(arrows: set[Arrow]) -> list[str] | None:
    """Some modules that import each other in a circle."""
    targets: dict[str, list[str]] = {}
    for source, target in sorted(arrows):
        targets.setdefault(source, []).append(target)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in targets.get(module, []):
                if found := walk(target, [*path, module]):
                    return found
            done.add(module)
        return None

    return next(filter(None, (walk(module, []) for module in targets)), None)


def layer_of(module: str) -> int:
    name = module.removeprefix("bot.runtime.")
    for rank, patterns in enumerate(LAYERS):
        for pattern in patterns:
            parts, wanted = name.split("."), pattern.split(".")
            if len(parts) == len(wanted) and all(w in ("*", p) for p, w in zip(parts, wanted, strict=True)):
                return rank
    raise AssertionError(f"{module} has no layer: give it a place in LAYERS")


def why_not(source: str, target: str) -> str | None:
    """What is wrong with an import; `None` when nothing is."""
    if is_part_of(source, *OWNERS):
        return None if is_part_of(target, *OPEN_TO_OWNERS) else "owners import bot.agent_adapter only"
    if is_part_of(target, *OWNERS):
        return None if source == "bot.runtime.app" else "only bot.runtime.app imports what is the owner's"
    if source == "bot.__main__":
        return None if target == "bot.runtime.cli" else "it is the command line and nothing else"
    if source == "bot.agent_adapter":
        return None
    if is_part_of(target, "bot.runtime.frameworks") and not is_part_of(source, "bot.runtime.frameworks"):
        return "it is imported by what owners write, and only where they use it"
    if target == "bot.agent_adapter":
        return "the runtime does not import what is made for owners"
    if layer_of(source) < layer_of(target):
        return "it points up"
    if is_part_of(source, "bot.runtime.telegram") and is_part_of(target, "bot.runtime.engines"):
        is_default = (source, target) == ("bot.runtime.telegram.agent", "bot.runtime.engines.memory.store")
        return None if is_default else "Telegram does not know which engine there is"
    if is_part_of(target, "bot.runtime.cloud") and not is_part_of(source, "bot.runtime.cloud"):
        return "a provider is found by bot.runtime.engines alone"
    if source.count(".") == target.count(".") == 4 and is_part_of(target, "bot.runtime.engines"):
        here, there = source.split(".")[3], target.split(".")[3]
        if is_part_of(source, "bot.runtime.engines") and there not in {here, *BUILT_ON.get(here, ())}:
            return "engines stand alone"
    return None


def wrong_arrows(arrows: set[Arrow]) -> list[str]:
    return [
        f"{source} -> {target}: {reason}"
        for source, target in sorted(arrows)
        if (reason := why_not(source, target))
    ]


def private_imports(sources: Sources) -> list[str]:
    """Private names of other modules that a module imports, or uses by the module's name."""
    found = []
    for module, source in sources.items():
        tree = ast.parse(source)
        names = {}
        for imported, name in imports_of(tree, package_of(module, sources)):
            if name and name.startswith("_") and is_part_of(imported, "bot"):
                found.append(f"{module}: {imported}.{name}")
            if name and f"{imported}.{name}" in sources:
                names[name] = f"{imported}.{name}"
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(ast.Name(id), attr) if id in names and attr.startswith("_"):
                    found.append(f"{module}: {names[id]}.{attr}")
    return found


@pytest.fixture(scope="module")
def sources() -> Sources:
    return sources_of(ROOT / "template/bot")


def test_no_module_imports_itself_in_a_circle(sources: Sources) -> None:
    assert cycle_in(arrows_of(sources)) is None


def test_every_import_points_down(sources: Sources) -> None:
    assert wrong_arrows(arrows_of(sources)) == []


def test_no_module_imports_what_is_private_to_another(sources: Sources) -> None:
    assert private_imports(sources) == []


def test_owners_tests_import_what_is_made_for_owners(sources: Sources) -> None:
    for path in [*(ROOT / "template/tests").glob("*.py"), *(ROOT / "llm").glob("*.py")]:
        imported = {module for module, _ in imports_of(ast.parse(path.read_text(encoding="utf-8")))}
        wrong = [m for m in imported if is_part_of(m, "bot") and not is_part_of(m, *OPEN_TO_OWNERS)]
        assert not wrong, path.name


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bot.runtime.config", "if TYPE_CHECKING:\n    from bot.runtime.logs import configure_logs"),
        ("bot.runtime.state.store", "def f():\n    from bot.runtime.state import turn"),
        ("bot.runtime.errors", "from importlib import import_module\nimport_module('bot.runtime.config')"),
        ("bot.runtime.state.store", "from . import turn"),
        ("bot.runtime.config", "from ..runtime.logs import configure_logs"),
    ],
    ids=["for types", "in a function", "by its name", "relative", "relative to a parent"],
)
def test_a_cycle_is_noticed(sources: Sources, module: str, line: str) -> None:
    arrows = arrows_of({**sources, module: f"{sources[module]}\n{line}\n"})
    found = cycle_in(arrows)
    assert found
    assert module in found
    assert wrong_arrows(arrows), "one of them points up"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bot.runtime.state.turn", "from bot.runtime.telegram import updates"),
        ("bot.runtime.telegram.processor", "from bot.runtime.engines.redis.store import RedisStore"),
        ("bot.runtime.telegram.commands", "import bot.handlers"),
        ("bot.runtime.engines.redis.doctor", "from bot.runtime.cloud import upstash"),
        ("bot.runtime.engines.dynamodb.store", "from bot.runtime.engines.firestore.store import PAGE"),
        ("bot.runtime.cli", "from bot.agent_adapter import Turn"),
        ("bot.agent", "from bot.runtime.state.turn import Turn"),
        ("bot.runtime.app", "from bot.runtime.frameworks.pydantic_ai import keep"),
    ],
    ids=lambda value: value.split()[-1],
)
def test_an_arrow_that_points_up_is_noticed(sources: Sources, module: str, line: str) -> None:
    assert len(wrong_arrows(arrows_of({**sources, module: f"{sources[module]}\n{line}\n"}))) == 1


@pytest.mark.parametrize(
    "line", ["from bot.runtime.state.turn import _frozen", "from bot.runtime.state import turn\nturn._frozen"]
)
def test_a_private_name_of_another_module_is_noticed(sources: Sources, line: str) -> None:
    assert private_imports({**sources, "bot.runtime.app": line}) == [
        "bot.runtime.app: bot.runtime.state.turn._frozen"
    ]
