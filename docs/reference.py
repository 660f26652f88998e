"""What the pages say of questions, settings, commands, metrics and files: read from the template itself.

Nothing is imported or rendered by Copier: `copier.yml` is YAML, the code is parsed, and which files a project
gets is what `_exclude` says. tests/test_docs.py compares all of it with rendered projects.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from pathspec import PathSpec

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template"
RUNTIME = TEMPLATE / "bot/runtime"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
QUESTIONS: dict[str, dict[str, Any]] = {
    name: question for name, question in CONFIG.items() if not name.startswith("_")
}
NAMES = {"project_name": "My Bot", "project_slug": "my-bot"}
"""Copier's defaults, with which the pages are rendered."""

COPYING = {name: question["default"] for name, question in QUESTIONS.items() if question.get("ask") is False}
"""What `_exclude` is told besides the answers, for a project that is new."""

Answers = Mapping[str, str]

_jinja = jinja2.Environment(
    loader=jinja2.FileSystemLoader([ROOT, TEMPLATE]),
    extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@cache
def _template(text: str) -> jinja2.Template:
    return _jinja.from_string(text)


# --- answers and files ---


def choices(question: str) -> dict[str, str]:
    """The values a question offers, with what is said of each; empty for free text."""
    offered = QUESTIONS.get(question, {}).get("choices", {})
    return {value: label.removeprefix(value).strip() for label, value in offered.items()}


def answers_of(name: str) -> dict[str, str]:
    """All answers of a project that is called by one: a backend, `fsm-STORAGE`, or a provider."""
    if name in choices("cloud_provider"):
        answers = {"backend": "cloud", "cloud_provider": name}
    elif name.startswith("fsm-"):
        answers = {"backend": "fsm", "fsm_storage": name.removeprefix("fsm-")}
    elif name == "fsm":
        answers = {"backend": "fsm", "fsm_storage": QUESTIONS["fsm_storage"]["default"]}
    elif name in choices("backend"):
        answers = {"backend": name}
    else:
        raise ValueError(f"{name} is neither a backend nor a provider")
    answers |= NAMES | {"agent": QUESTIONS["agent"]["default"]}
    return answers | {"engine": _template(QUESTIONS["engine"]["default"]).render(answers)}


def project_names() -> list[str]:
    """Every project there is, as `answers_of` knows it."""
    backends = [name for name in choices("backend") if name not in ("fsm", "cloud")]
    return [*backends, *(f"fsm-{each}" for each in choices("fsm_storage")), *choices("cloud_provider")]


def engines() -> list[str]:
    """Every engine, in the order in which the questions offer them."""
    return list(dict.fromkeys(answers_of(name)["engine"] for name in project_names()))


def files(answers: Answers) -> list[str]:
    """The path of every file that a project with these answers gets."""
    return list(_files(frozenset(answers.items())))


@cache
def _files(answers: frozenset[tuple[str, str]]) -> tuple[str, ...]:
    patterns = [_template(pattern).render(COPYING | dict(answers)) for pattern in CONFIG["_exclude"]]
    excluded = PathSpec.from_lines("gitignore", [line for text in patterns for line in text.splitlines()])
    found = [name for name in _template_files() if not excluded.match_file(name)]
    return (*found, CONFIG["_answers_file"])


@cache
def _template_files() -> list[str]:
    """The path of every file of the template, as a project may get it."""
    names = [path.relative_to(TEMPLATE).as_posix() for path in sorted(TEMPLATE.rglob("*")) if path.is_file()]
    return list(dict.fromkeys(name.removesuffix(".jinja") for name in names if "{{" not in name))


@cache
def parsed(path: Path) -> ast.Module:
    """A module, parsed."""
    return ast.parse(path.read_text("utf-8"))


def rendered(path: str, answers: Answers) -> str:
    """A text file of the template, as a project with these answers gets it."""
    return _jinja.get_template(f"{path}.jinja").render(answers)


# --- Markdown ---


def table(*columns: str, rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown; bars inside cells are escaped."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def sentence(text: str) -> str:
    """A docstring's or description's first sentence, with the names of settings as code."""
    text = " ".join(text.split("\n\n")[0].split()).replace("<", "&lt;")
    return re.sub(r"(?<![`\w])([A-Z]+_[A-Z_]+)(?![`\w])", r"`\1`", text)


# --- questions ---


def questions() -> str:
    """Every question that is asked, in order: when, what it says, what may be answered."""
    parts = []
    for name, question in QUESTIONS.items():
        if question.get("when") is False or question.get("ask") is False:
            continue
        text, _, hint = question["help"].partition("\n")
        parts += [f"### `{name}`", f"{text} {hint}".strip()]
        if "when" in question:
            condition = question["when"].strip("{} ").replace("==", "is").replace("'", "`")
            asked, _, rest = condition.partition(" ")
            parts.append(f"Asked when `{asked}` {rest}.")
        offered = choices(name)
        if offered:
            default = question["default"]
            rows = []
            for value, label in offered.items():
                said = [*map(str.strip, label.split(";"))]
                rows.append((f"`{value}`" + (" (default)" if value == default else ""), *said))
            width = max(map(len, rows))
            if width == 4 and all(len(row) == 4 for row in rows):
                parts.append(table("answer", "cost", "scalability", "best for", rows=rows))
            else:
                rows = [(row[0], "; ".join(row[1:])) for row in rows]
                parts.append(table("answer", "what is said of it", rows=rows))
        elif "{" in question["default"]:
            parts.append("Default: made from the answer before.")
        else:
            parts.append(f"Default: `{question['default']}`.")
    return "\n\n".join(parts)


def providers() -> str:
    """A row per cloud provider, as the question offers it."""
    rows = []
    for name, label in choices("cloud_provider").items():
        said = tuple(part.strip() for part in label.split(";"))
        engine = answers_of(name)["engine"]
        rows.append(
            (
                f"[`{name}`](docs/providers/{name}.md)",
                f"[{engine}](docs/backends/{engine}.md)",
                "; ".join(said),
            )
        )
    return table("`cloud_provider`", "engine", "what the question says of it", rows=rows)


# --- settings ---


def settings_classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class of settings, with the path of its file: those that derive from `Environment`."""
    for path in sorted(RUNTIME.rglob("*.py")):
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and "Environment" in map(ast.unparse, node.bases):
                yield path.relative_to(TEMPLATE).as_posix(), node


def settings() -> str:
    """A table for each class of settings, those of every project first."""
    parts = []
    everywhere = set.intersection(*(set(files(answers_of(name))) for name in project_names()))
    for path, node in sorted(
        settings_classes(), key=lambda each: (each[0] not in everywhere, "/cloud/" in each[0])
    ):
        if path in everywhere:
            parts.append("## In every project")
        else:
            where = [e for e in engines() if path in files(answers_of(_project_with(e)))]
            by_name = [name for name in choices("cloud_provider") if path in files(answers_of(name))]
            names = where or by_name
            parts.append(f"## Where the state is kept by {' or '.join(f'`{name}`' for name in names)}")
        rows = []
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call):
                rows.append(_setting(field, field.value))
        parts.append(table("variable", "meaning", "default", "values", rows=rows))
    return "\n\n".join(parts)


def setting_names() -> list[str]:
    """Every environment variable that is a setting."""
    return [
        ast.unparse(field.target).upper()
        for _, node in settings_classes()
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Call)
    ]


def _project_with(engine: str) -> str:
    names = [name for name in project_names() if answers_of(name)["engine"] == engine]
    return min(names, key=lambda name: name.startswith("fsm-"))  # the worked conversation is not the engine's


def _setting(field: ast.AnnAssign, call: ast.Call) -> tuple[str, ...]:
    name = ast.unparse(field.target).upper()
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    default = _default(name, call.args[0] if call.args else options["default"])
    description = options.get("description")
    meaning = sentence(ast.literal_eval(description)) if description else ""
    return f"`{name}`", meaning, default, _values(ast.unparse(field.annotation), options)


def _default(name: str, node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return "the project's slug" if node.id == "NAMESPACE" else f"`{node.id}`"
    value = ast.literal_eval(node)
    if name == "STATE_TTL":
        ttl = _constant("engines/redis/store.py", "DEFAULT_TTL")
        return f"`{ttl}` in Redis, else forever"
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _constant(path: str, name: str) -> Any:
    for node in parsed(RUNTIME / path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise ValueError(f"no {name} in {path}")


def _values(annotation: str, options: Mapping[str | None, ast.expr]) -> str:
    kind = annotation.removesuffix(" | None")
    if kind.startswith("Literal["):
        values: tuple[str, ...] | str = ast.literal_eval(kind.removeprefix("Literal[").removesuffix("]"))
        return ", ".join(f"`{value}`" for value in ((values,) if isinstance(values, str) else values))
    said = {
        "SecretStr": "text, a secret",
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "`true`, `false`",
        "Seconds": "seconds, above 0 to 86400",
        "FilePath": "a file",
        "People": "ids and @names, separated by commas",
    }
    text = said.get(kind, f"`{kind}`")
    if "gt" in options:
        text += f" above {ast.unparse(options['gt'])}"
    least, most = options.get("ge"), options.get("le")
    if least and most:
        text += f", {ast.literal_eval(least)} to {ast.literal_eval(most)}"
    elif least:
        text += f", {ast.literal_eval(least)} or more"
    return text


# --- commands ---


def commands() -> str:
    """What `bot --help` and `bot state --help` list, of all engines, with arguments and options."""
    rows = []
    for path in sorted(RUNTIME.rglob("*.py"), key=lambda path: len(path.parts)):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef) and (name := _command_name(node)):
                doc = sentence(ast.get_docstring(node) or "")
                rows.append((f"`{' '.join([name, *_parameters(node)])}`", doc))
    return table("command", "what it does", rows=rows)


def command_names() -> list[str]:
    """Every command, such as `bot state show`."""
    return re.findall(r"^\| `(bot [a-z-]+(?: [a-z-]+)?)", commands(), re.MULTILINE)


def _command_name(node: ast.FunctionDef) -> str | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call):
            group = ast.unparse(decorator.func)
            own = ast.literal_eval(decorator.args[0]) if decorator.args else node.name.replace("_", "-")
            if group in ("cli.command", "state.command", "jobs.command"):
                return f"bot {own}" if group == "cli.command" else f"bot {group.partition('.')[0]} {own}"
    return None


def _parameters(node: ast.FunctionDef) -> Iterator[str]:
    defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + [*node.args.defaults]
    for argument, default in zip(node.args.args, defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        name = argument.arg.removesuffix("_argument")
        metavar = re.search(r"metavar='(\w+)'", annotation)
        if "Option" in annotation:
            flag = re.search(r"'(--[a-z-]+)'", annotation)
            value = f" {metavar[1]}" if metavar else ""
            yield f"[{flag[1] if flag else '--' + name.replace('_', '-')}{value}]"
        else:
            yield metavar[1] if metavar else name.upper() if default is None else f"[{name.upper()}]"


# --- metrics ---


def metrics() -> str:
    """Every metric the code counts, with its labels."""
    rows = []
    for path in sorted(RUNTIME.rglob("*.py"), key=lambda path: len(path.parts)):
        for node in ast.walk(parsed(path)):
            kinds = ("Counter", "Gauge", "Histogram")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                name, text = (ast.literal_eval(argument) for argument in node.args[:2])
                labels = ast.literal_eval(node.args[2]) if len(node.args) > 2 else []
                full = f"{name}_total" if node.func.id == "Counter" else name
                full += f"{{{', '.join(labels)}}}" if labels else ""
                rows.append((f"`{full}`", node.func.id.lower(), sentence(text)))
    return table("metric", "kind", "what it tells", rows=rows)


def metric_names() -> list[str]:
    """The name of every metric."""
    return re.findall(r"^\| `(\w+)", metrics(), re.MULTILINE)


# --- files ---


def tree(name: str, folder: str) -> str:
    """The files of a project below a folder, with the first line of each module's docstring."""
    rows = []
    for path in files(answers_of(name)):
        if path.startswith(f"{folder}/") and path.endswith(".py") and (TEMPLATE / path).exists():
            doc = ast.get_docstring(parsed(TEMPLATE / path))
            if doc:
                rows.append((f"`{path}`", sentence(doc)))
    return table("file", "what it is about", rows=rows)


def tests_of(engine: str) -> str:
    """The tests in `suite/` that only one engine has."""
    rows = []
    for path in sorted((ROOT / "suite/engines" / engine).rglob("test_*.py")):
        rows.append(
            (f"`{path.relative_to(ROOT).as_posix()}`", sentence(ast.get_docstring(parsed(path)) or ""))
        )
    return table("test", "what it shows", rows=rows)
