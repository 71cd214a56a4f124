"""The course's claims about language models: each claim that a lesson shows is tagged and asserted there."""

import ast
import json

import pytest
from notebook_files import NOTEBOOKS, ROOT, code_cells, name, parse, tags

from course_lib.course.contents import all_lessons

CLAIMS = json.loads((ROOT / "assets" / "claims.json").read_text(encoding="utf-8"))
BY_ID = {claim["id"]: claim for claim in CLAIMS}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def claims_of(cell):
    return [tag.removeprefix("claim-") for tag in tags(cell) if tag.startswith("claim")]


def can_fail(node):
    """Return whether this is an assertion about a computed value."""
    return isinstance(node, ast.Assert) and any(isinstance(part, ast.Name) for part in ast.walk(node.test))


def test_the_list_is_complete():
    assert [claim["id"] for claim in CLAIMS] == [f"C{n:02}" for n in range(1, 75)]
    assert len({claim["claim"] for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert set(claim) == {"id", "part", "claim", "lessons"}
        assert claim["part"] and claim["claim"].endswith(".")
        assert set(claim["lessons"]) <= {lesson.name for lesson in all_lessons()}


@each_notebook
def test_tags_and_list_agree(path):
    tagged = {claim for cell in code_cells(path) for claim in claims_of(cell)}
    assert tagged <= set(BY_ID)
    assert tagged == {claim["id"] for claim in CLAIMS if name(path) in claim["lessons"]}


@each_notebook
def test_every_tagged_cell_asserts_something(path):
    for cell in code_cells(path):
        if claims_of(cell):
            assert any(map(can_fail, ast.walk(parse(cell)))), cell.source
            assert not {"raises-exception", "nbval-skip"} & set(tags(cell)), "its assertion would be ignored"
