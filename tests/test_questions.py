"""Which answers are taken, what is refused and how, and what follows from them."""

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from copier import run_copy, run_recopy
from jinja2.sandbox import SandboxedEnvironment

from conftest import Render
from support import (
    ASKED,
    CONFIG,
    QUESTIONS,
    ROOT,
    Answers,
    choices,
    clean_env,
    combinations,
    copier,
    engine,
    label,
)

GOOD_NAMES = [
    "A",
    "My Bot",
    "x" * 60,
    "Bot (beta) v1.2, really+more_x - y",
    "3D Printer",
    "Añdré",
    "An\u0303dre\u0301",  # the same in decomposed form
    "Straße",
    "Бот погоды",
    "天気ボット",
    "बॉट सहायक",
    "بوت الطقس",
    # What YAML, TOML or Python would take for something else than text, if it stood there bare.
    "yes",
    "No",
    "null",
    "true",
    "123",
    "007",
    "1.0",
    "1e3",
    "0x10",
    "2026-01-01",
    "1_000",
]

BAD_NAMES = [
    *["", " ", "-", "- a", "~", ".", "..", "...", "../x", "a/b", "()", "+1", "_x", ", a"],
    *[
        "it's",
        'say "hi"',
        "a`b`",
        "a\\b",
        "$HOME",
        "$(id)",
        "{{ 7 * 7 }}",
        "{% raw %}",
        "{x}",
        "[x]",
    ],
    *[
        "<b>",
        "a|b",
        "a#b",
        "a;b",
        "a&b",
        "a?b",
        "100%",
        "a@b",
        "a!",
        "a*b",
        "a:b",
        "a=b",
        "a^b",
        "a~b",
    ],
    *[
        "a\nb",
        "Bot\n",
        "Bot\r",
        "a\tb",
        "a\0b",
        "a\x1b[31m",
        "a\x7f",
        "a\x85b",
        "a\u2028b",
        "a\ud800b",
    ],
    *["🤖", "🤖🤖", "Bot 🤖", "1\ufe0f\u20e3", "½", "x²"],
    *["x" * 61, "x" * 200, " lead", "trail ", 'Añdré\'s "Bot" & Co'],
    # Invisible: zero width, direction marks, fillers, odd spaces, variation selectors, tags.
    *["\u200bBot", "B\u200bot", "B\u200dot", "\u202eBot", "B\u2066ot", "B\ufeffot", "B\u00adot"],
    *["\u3164", "B\u3164ot", "B\u115fot", "B\uffa0ot", "B\u2800ot", "B\u00a0ot", "B\u3000ot"],
    *["B\u034fot", "B\u180bot", "B\ufe0fot", "B\U000e0101ot", "B\U000e0041ot", "\u0301a"],
]

GOOD_SLUGS = ["ab", "a1", "my-bot", "a-1-b", "x" * 40, "bot-2", "bot", "aiogram", "redis", "pytest"]
"""The last four are packages: the one that a project itself is has another name than its slug."""

BAD_SLUGS = [
    *[
        "",
        "a",
        "x" * 41,
        "1a",
        "-ab",
        "ab-",
        "a--b",
        "Ab",
        "aB",
        "a_b",
        "a b",
        "a.b",
        "../x",
        "ä-b",
        "\u0430b",  # Cyrillic
    ],
    *["ab\n", "ab\n\n", "ab\r", "\nab", "{{ x }}", "$x", "a'b"],
    *["yes", "no", "null", "true", "off"],
]

SLUGS_OF_NAMES = {
    "My Bot": "my-bot",
    "Weather (beta) v1.2": "weather-beta-v1-2",
    "Añdré": "andre",
    "An\u0303dre\u0301": "andre",
    "Straße": "strasse",
    "3D Printer": "bot-3d-printer",
    "123": "bot-123",
    "x" * 60: "x" * 40,
    "a" * 39 + " b": "a" * 39,  # not cut right behind a hyphen
    "天気 Bot 2": "bot-2",
    # Nothing usable left, or a word that is taken.
    "A": "my-bot",
    "Бот": "my-bot",
    "Bot": "bot",
    "Aiogram": "aiogram",
    "yes": "my-bot",
}


ENVIRONMENT = SandboxedEnvironment(  # as Copier makes it
    loader=jinja2.FileSystemLoader(ROOT),
    extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
    **(CONFIG["_envops"] | {"undefined": jinja2.StrictUndefined}),
)


def said_of_data(question: str, data: dict[str, object]) -> str:
    """The line Copier would end with for these answers from --data; empty when they are fine."""
    try:
        ENVIRONMENT.from_string(QUESTIONS[question]["ask"]).render(_copier_conf={"data": data})
    except jinja2.UndefinedError as error:
        return str(error)
    return ""


def problem(question: str, answer: str) -> str:
    """What a question has against an answer: the same whether it is typed or comes from --data."""
    validator = ENVIRONMENT.from_string(QUESTIONS[question]["validator"])
    typed = validator.render({question: answer}).strip()
    said = said_of_data(question, {question: answer})
    assert said == (f"'None' has no attribute {f'{question}: {typed}'!r}" if typed else "")
    assert "\n" not in typed
    return typed


def answered(questionnaire: Path, folder: Path, data: dict[str, Any]) -> dict[str, str]:
    """Answer like this, as `--data` would, and return what the answers file then says."""
    run_copy(str(questionnaire), folder, data=data, defaults=True, quiet=True)
    recorded: dict[str, str] = yaml.safe_load((folder / ".copier-answers.yml").read_text("utf-8"))
    return {name: value for name, value in recorded.items() if name in ASKED}


def refusal(questionnaire: Path, folder: Path, data: dict[str, Any]) -> str:
    """Expect Copier to stop, leave nothing behind, and return its message."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (Copier's own error is checked here)
        run_copy(str(questionnaire), folder, data=data, defaults=True, quiet=True)
    assert type(caught.value).__name__ == "UserMessageError", caught.value
    assert not folder.exists()
    return str(caught.value)


@pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
def test_good_name_is_kept_as_it_was_typed(questionnaire: Path, tmp_path: Path, name: str) -> None:
    """A good name is recorded as the very same text, and its default slug passes its own check."""
    answers = answered(questionnaire, tmp_path / "out", {"project_name": name})
    assert answers["project_name"] == name
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", answers["project_slug"])


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_name_is_refused(name: str) -> None:
    """A name that could break a file, a shell or a reader is refused with one line."""
    assert problem("project_name", name)


@pytest.mark.parametrize("slug", GOOD_SLUGS)
def test_good_slug_is_taken(slug: str) -> None:
    """A slug that fits is no problem."""
    assert problem("project_slug", slug) == ""


@pytest.mark.parametrize("slug", BAD_SLUGS, ids=ascii)
def test_bad_slug_is_refused(slug: str) -> None:
    """A slug of the wrong form, or with a meaning of its own, is refused with one line."""
    assert problem("project_slug", slug)


@pytest.mark.parametrize(("name", "slug"), SLUGS_OF_NAMES.items(), ids=ascii)
def test_default_slug(questionnaire: Path, tmp_path: Path, name: str, slug: str) -> None:
    """The slug is derived from the name, in plain ASCII, and always usable."""
    assert answered(questionnaire, tmp_path / "out", {"project_name": name})["project_slug"] == slug


@pytest.mark.parametrize("value", [None, True, 123, 1.5, ["a"], {"a": 1}], ids=repr)
@pytest.mark.parametrize("question", ["project_name", "project_slug"])
def test_data_file_with_something_else_than_text(question: str, value: object) -> None:
    """`--data-file` is YAML, where an unquoted `yes` is `True`: anything but text is refused."""
    assert f"{question}: not text" in said_of_data(question, {question: value})


@pytest.mark.parametrize(
    "data",
    [
        'project_name=Añdré\'s "Bot" & Co',
        "project_name=two\nlines",
        "project_slug=ab\n",
        "backend=",
        "engine=redis",
    ],
    ids=ascii,
)
def test_command_line_refuses_in_one_line(questionnaire: Path, tmp_path: Path, data: str) -> None:
    """`copier copy --data` ends with exit code 1 and one line with the reason; nothing is left."""
    litter = tmp_path / "tmp"
    litter.mkdir()
    done = copier(
        *("copy", "--quiet", "--defaults", "--data", data, questionnaire, "out"),
        cwd=tmp_path,
        env=clean_env(TMPDIR=str(litter)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    assert data.split("=")[0] + ": " in line
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert list(litter.iterdir()) == []


def test_nothing_is_left_in_a_folder_that_was_there(questionnaire: Path, tmp_path: Path) -> None:
    """A refused answer leaves a folder that existed before as it was."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    done = copier(
        *("copy", "--defaults", "--data", "project_name=a/b", questionnaire, "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_without_terminal_and_defaults_nothing_is_rendered(questionnaire: Path, tmp_path: Path) -> None:
    """Without a terminal to ask in, Copier says what to do instead of guessing."""
    done = copier("copy", questionnaire, "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "--defaults" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("question", [name for name in QUESTIONS if choices(name)])
def test_choices_are_refused_by_name(questionnaire: Path, tmp_path: Path, question: str) -> None:
    """`ask` lists the very values that `choices` offers, for every question that has any."""
    reason = refusal(questionnaire, tmp_path / "out", {question: "oracle"})
    if question in ASKED:
        assert f"{question}: not one of: {', '.join(choices(question))}" in reason
    for value in choices(question) if question in ASKED else []:
        assert f"'{value}'" in QUESTIONS[question]["ask"]


def test_choices_say_what_they_cost() -> None:
    """Each label starts with its value and then says more, within the width of a terminal."""
    for question in ASKED:
        offered = QUESTIONS[question].get("choices", {})
        for text, value in offered.items():
            assert text.startswith(value)
            assert len(text) <= 76
            assert text.count(";") == 2, "cost; scalability; best for"


@pytest.mark.parametrize("answers", combinations(), ids=label)
def test_engine_follows_from_the_answers(render: Render, answers: Answers) -> None:
    """The rendered engine is the one the answers name, by the provider's store where there is one."""
    chosen, folder = engine(answers), render(**answers)
    said = (folder / "bot/runtime/chosen.py").read_text("utf-8")
    assert f'ENGINE = "{chosen}"' in said
    provider = answers.get("cloud_provider", chosen)
    module = f"cloud.{provider}" if provider != chosen else f"engines.{chosen}.store"
    assert f'STORE = "bot.runtime.{module}:' in said
    assert (folder / f"bot/runtime/{module.replace('.', '/')}.py").is_file()


def test_an_fsm_storage_beside_another_backend_is_not_asked_for(questionnaire: Path, tmp_path: Path) -> None:
    """It neither decides nor is recorded."""
    answers = answered(questionnaire, tmp_path / "out", {"backend": "redis", "fsm_storage": "memory"})
    assert answers["backend"] == "redis"
    assert "fsm_storage" not in answers


def test_data_cannot_name_another_engine(questionnaire: Path, tmp_path: Path) -> None:
    """Neither data nor API defaults nor settings lead to an engine that contradicts the backend."""
    assert "engine: is computed" in refusal(questionnaire, tmp_path / "a", {"engine": "redis"})

    with pytest.raises(ValueError, match="Invalid choice for 'engine'"):
        run_copy(
            str(questionnaire),
            tmp_path / "b",
            user_defaults={"engine": "redis"},
            defaults=True,
            quiet=True,
        )
    assert not (tmp_path / "b").exists()

    settings = tmp_path / "settings.yml"
    settings.write_text("defaults:\n  engine: redis\n")
    done = copier(
        *("copy", "--defaults", questionnaire, "c"),
        cwd=tmp_path,
        env=clean_env(COPIER_SETTINGS_PATH=str(settings)),
    )
    assert done.returncode != 0
    assert not (tmp_path / "c").exists()


def test_engine_in_the_answers_file_is_ignored(template: Path, tmp_path: Path, render: Render) -> None:
    """An `engine` written by hand into the answers file changes nothing and is dropped."""
    folder = tmp_path / "out"
    shutil.copytree(render(backend="memory"), folder)
    file = folder / ".copier-answers.yml"
    before = file.read_text("utf-8")
    file.write_text(before + "engine: redis\n", "utf-8")
    run_recopy(folder, defaults=True, overwrite=True, quiet=True, vcs_ref="HEAD")
    assert file.read_text("utf-8") == before
    assert 'ENGINE = "memory"' in (folder / "bot/runtime/chosen.py").read_text("utf-8")


def test_a_slug_may_be_the_name_of_a_package(template: Path, tmp_path: Path) -> None:
    """A project cannot need a package of its own name; so it has one that no slug changes."""
    for slug in ("aiogram", "my-bot"):
        data = {"project_name": "My Bot", "project_slug": slug}
        run_copy(str(template), tmp_path / slug, data=data, defaults=True, quiet=True, vcs_ref="HEAD")
    texts = [(tmp_path / slug / "pyproject.toml").read_text("utf-8") for slug in ("aiogram", "my-bot")]
    assert texts[0] == texts[1]
    project = tomllib.loads(texts[0])["project"]
    assert project["name"] not in {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}


def test_wrapper_refuses_what_pytest_copie_ignores(render: Render) -> None:
    """The tests' own `render` fails for an answer that is no question, or no choice."""
    with pytest.raises(AssertionError, match="no question"):
        render(colour="red")
    with pytest.raises(AssertionError, match="no question"):
        render(engine="memory")
    with pytest.raises(AssertionError, match="none of"):
        render(backend="oracle")


def test_message_quotes_the_folder(
    questionnaire: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The commands printed after a copy can be pasted, whatever the folder is called."""
    monkeypatch.chdir(tmp_path)
    for folder, shown in {
        "out": "cd out\n",
        "my bot": "cd 'my bot'\n",
        ".": "is ready. Next:\n\n    uv",
    }.items():
        run_copy(str(questionnaire), folder, defaults=True)
        said = capsys.readouterr().err
        assert shown in said
        assert "uv run bot chat" in said
        assert ("cd " in said) == (folder != ".")
