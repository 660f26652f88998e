"""Which answers the conversation takes."""

import pytest

from suite.flow.example.steps import AnswerRefused, read_name, read_year

pytestmark = pytest.mark.clause("flow.example")


@pytest.mark.parametrize(
    ("text", "name"), [("Ann", "Ann"), ("  Ann \n B. ", "Ann B."), ("Ъ 👋", "Ъ 👋"), ("x" * 50, "x" * 50)]
)
def test_a_name(text: str, name: str) -> None:
    assert read_name(text) == name


@pytest.mark.parametrize("text", [None, "", " \n", "/unknown", "x" * 51])
def test_a_name_that_is_none(text: str | None) -> None:
    with pytest.raises(AnswerRefused, match="Please"):
        read_name(text)


@pytest.mark.parametrize(("text", "year"), [("1990", 1990), (" 2026\n", 2026), ("1896", 1896)])
def test_a_year(text: str, year: int) -> None:
    assert read_year(text, 2026) == year


@pytest.mark.parametrize("text", [None, "", "abc", "90", "1895", "2027", "19 90", "-1990", "1990.0", "01990"])
def test_a_year_that_is_none(text: str | None) -> None:
    with pytest.raises(AnswerRefused, match="four digits"):
        read_year(text, 2026)
