"""The drawing of the packages and the places in code that pages name are those of the code."""

import re
import runpy

import pytest

from tests.docs.pages import ROOT

DRAWING = runpy.run_path(str(ROOT / "docs/tools/drawing.py"))
LINES = runpy.run_path(str(ROOT / "docs/tools/lines.py"))


def test_packages_import_in_one_direction_and_the_drawing_is_up_to_date():
    imports = DRAWING["imports_between_packages"]()
    assert len(imports) > 20
    svg = (ROOT / "docs/packages.svg").read_text()
    assert svg == DRAWING["picture"](imports), "run `make docs`"


def test_arrows_that_follow_from_others_are_left_out():
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert DRAWING["reduced"](imports) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert DRAWING["levels"](imports) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("page", LINES["PAGES"])
def test_places_in_code_are_where_the_page_says(page):
    text = (ROOT / page).read_text()
    assert len(re.findall(r"\.py#L\d+\)", text)) >= 10
    assert LINES["renewed"](text, page) == text, "run `make docs`"


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("[`Nobody`](../server/errors.py#L1)", "defines no Nobody"),
        ("[`Engine`](../server/nowhere.py#L1)", "no file"),
    ],
)
def test_a_place_that_is_not_there(place, problem):
    with pytest.raises(LINES["PlaceError"], match=problem):
        LINES["renewed"](place, "docs/page.md")
