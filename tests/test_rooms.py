"""The library's rooms stand in an order, and none knows of one that stands below it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import course_lib

ROOT = Path(course_lib.__file__).parent
ROOMS = re.findall(r"^    (\w+)/ ", course_lib.__doc__, re.MULTILINE)


def imports_of(path: Path) -> set[str]:
    """The rooms that a file imports, also inside functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path} imports relatively: name the room")
    return {
        parts[1] for name in found if (parts := name.split("."))[0] == "course_lib" and len(parts) > 1
    } & set(ROOMS)


def test_the_library_says_which_rooms_it_has():
    assert set(ROOMS) == {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert ROOMS[:5] == ["text", "world", "model", "quantize", "kernels"]


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_against_the_order(room):
    above = ROOMS[: ROOMS.index(room) + 1]
    wrong = {
        str(path.relative_to(ROOT)): low
        for path in (ROOT / room).rglob("*.py")
        if (low := imports_of(path) - set(above))
    }
    assert not wrong


def test_no_room_sniffs_at_another():
    """Parts say of what kind they are (`model.exchange`); nobody asks an object for the attributes of a class
    it mustn't know.
    """
    text = "".join(
        path.read_text("utf-8")
        for room in ("model", "quantize", "kernels", "generate")
        for path in (ROOT / room).rglob("*.py")
    )
    assert 'hasattr(part, "base")' not in text and "__class__ =" not in text and "set_submodule" not in text


ALONE = """
import sys
OUTSIDE = "gguf bertviz safetensors regex jinja2 tqdm matplotlib ipywidgets transformers".split()
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OUTSIDE:
            raise ImportError(f"{name} isn't there")
sys.meta_path.insert(0, Blocked())
import course_lib.model, course_lib.quantize, course_lib.kernels
"""


def test_models_quantizing_and_kernels_need_nothing_but_torch_triton_and_numpy():
    subprocess.run([sys.executable, "-c", ALONE], check=True, cwd=ROOT.parent)
