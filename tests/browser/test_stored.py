"""What a newcomer sees before running anything: every stored lesson, trusted (as by `make lab`) and not."""

import re

import pytest

from tests.browser.lab import OUTPUTS, ROOT

NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
BROKEN = re.compile(
    r"Error displaying widget|model not found|Loading widget|Javascript Error|\w+\(children=|\d+%\||\d+it \["
    r"|is not defined|Traceback"
)


@pytest.fixture(scope="module", params=["untrusted", "trusted"])
def trust(request, lab, served):
    """Notebooks are trusted by their content, wherever it lies: so this comes second, and for all of them."""
    if request.param == "trusted":
        for name in NAMES:
            lab.trust(served / name)
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_lesson_is_whole(lab, trust, name):
    del lab.refused[:], lab.errors[:]
    lab.view(name)
    try:
        outputs = lab.page.locator(OUTPUTS)
        assert not [text for text in outputs.all_inner_texts() if BROKEN.search(text)]
        assert lab.page.locator(".jupyter-widgets, progress, .progress").count() == 0
        figures = lab.page.locator(f"{OUTPUTS} img")
        assert figures.count() >= 2
        assert (
            figures.evaluate_all(
                "all => all.filter(each => !each.alt.trim() || each.naturalWidth < 100).length"
            )
            == 0
        )
        assert lab.faults() == lab.errors == lab.refused == []
        drawn = lab.page.locator(".bertviz svg line").count() > 0
        assert drawn == (
            trust == "trusted" and "head_view(" in (ROOT / "notebooks" / name).read_text(encoding="utf-8")
        )
    finally:
        lab.close()
