"""Reading the stored notebooks, for the tests about them."""

import ast
import linecache
import re
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def name(path):
    """The lesson's name, by which everything but the file knows it."""
    return path.stem.partition("_")[2]


def notebook(name):
    return next(path for path in NOTEBOOKS if path.stem.partition("_")[2] == name)


def read_cells(path):
    return nbformat.read(path, as_version=4).cells


def code_cells(path):
    return [cell for cell in read_cells(path) if cell.cell_type == "code" and cell.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def parse(cell):
    """The syntax tree of a code cell, with %magics and !commands turned into calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def calls(cell, name):
    """The calls of the function `name` in a cell, in order."""
    nodes = (node for node in ast.walk(parse(cell)) if isinstance(node, ast.Call))
    return sorted((node for node in nodes if ast.unparse(node.func) == name), key=lambda node: node.lineno)


def first_argument(call):
    return ast.literal_eval(call.args[0])


def names_bound(cells):
    """All names that cells import, define or assign at top level or anywhere within."""
    bound = set()
    for node in (node for cell in cells for node in ast.walk(parse(cell))):
        if isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return bound


def stub_answer(path, id):
    """What the stored cell of exercise `id` hands to `check`: the cell run up to there, after all earlier
    imports.
    """
    cells = code_cells(path)
    here = next(place for place, cell in enumerate(cells) if f"exercise-{id}" in tags(cell))
    namespace = {"__name__": "__main__"}
    for cell in cells[:here]:
        _run([node for node in parse(cell).body if isinstance(node, ast.Import | ast.ImportFrom)], namespace)
    check = calls(cells[here], "check")[0]
    filename = remember(cells[here].source, f"<exercise {id} of {path.name}>")
    body = parse(cells[here]).body
    _run([node for node in body if ast.unparse(node) != ast.unparse(check)], namespace, filename)
    return eval(compile(ast.Expression(check.args[1]), filename, "eval"), namespace)


def _run(nodes, namespace, filename="<cell>"):
    exec(compile(ast.Module(nodes, type_ignores=[]), filename, "exec"), namespace)  # noqa: S102


def remember(source, filename):
    """Let `inspect` find this source, as it finds that of a notebook's cell."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return filename


def text_of(output):
    """The text of an output, of a stream or of each text type of a display."""
    if output.output_type == "stream":
        return output.text
    return "\n".join(text for kind, text in output.get("data", {}).items() if _is_text(kind, text))


def _is_text(kind, value):
    return isinstance(value, str) and not re.match(r"image/(png|jpeg)", kind)
