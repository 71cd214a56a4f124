"""Execute lessons and store them as pages that are complete without a kernel.

    python -m course_lib.course.store notebooks/*_multi_head_attention.ipynb

A widget needs its kernel: a page with a stored widget shows an error when it is opened. A sentence is
therefore stored in place of the widget ("Two sliders appear here when you run this cell."). Below it stands
what the widget showed when the run ended, unless the page shows that already. Progress bars and pictures
that are drawn live are not stored.
"""

import argparse
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty
from time import monotonic

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from course_lib.course.home import write_file

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CONTROLS = {  # singular: plural, then the names of the widget models
    "slider": ("sliders", "IntSliderModel", "FloatSliderModel", "SelectionSliderModel"),
    "menu": ("menus", "DropdownModel"),
    "text box": ("text boxes", "TextModel", "TextareaModel"),
    "tick box": ("tick boxes", "CheckboxModel"),
    "row of buttons": ("rows of buttons", "ToggleButtonsModel"),
    "button": ("buttons", "ButtonModel"),
}
# Endings of the names of widgets that aren't controls.
NOT_CONTROLS = ("Box", "Tab", "Accordion", "Output", "HTML", "Label", "Image", "Progress")
NUMBERS = ("no", "a", "two", "three", "four", "five", "six")


class StoreError(Exception):
    """Something that must be corrected in the lesson or its file. The message says what."""


class _PollingClient(NotebookClient):
    """An nbclient that polls for the kernel's reply once a second.

    While an Output widget is being filled, the reply sometimes doesn't wake nbclient, and it waits for ever.
    That happened in 12 of 60 runs of a notebook with four knobs, on a busy machine.
    """

    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        get_message = client.shell_channel.get_msg

        async def poll(timeout: float | None = None) -> dict:
            end = math.inf if timeout is None else monotonic() + timeout
            while True:
                try:
                    return await get_message(timeout=max(0, min(1, end - monotonic())))
                except Empty:
                    if monotonic() >= end:
                        raise

        client.shell_channel.get_msg = poll
        return client


def execute(path: Path) -> NotebookNode:
    """Return the notebook with the outputs of a fresh run, as a learner without any progress sees them.

    Its metadata name the kernel and nothing else.

    Raises CellExecutionError, which shows the cell, if a cell fails that isn't tagged `raises-exception`;
    DeadKernelError if the kernel dies; StoreError if a widget fails, and for a file that is no notebook.
    """
    notebook = _read(path)
    resources = {"metadata": {"path": path.parent}}
    options = {"kernel_name": "python3", "timeout": None, "record_timing": False, "coalesce_streams": True}
    with tempfile.TemporaryDirectory() as home:
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "THIRSTY_TIGER_HOME": home}
        _PollingClient(notebook, resources=resources, **options).execute(env=environment)
    models = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    replace_widgets(notebook, models)
    # Neither versions nor widget state are stored, since they differ between machines.
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # noqa: BLE001  nbformat raises many kinds for what is no notebook
        line = str(error).partition("\n")[0]
        raise StoreError(f"this file can't be read as a notebook ({line})") from None


def replace_widgets(notebook: NotebookNode, models: Mapping[str, dict]) -> None:
    """Replace each widget in the notebook's outputs by its sentence and by what it showed.

    models: the state of every widget, by its id.

    Raises StoreError for a widget that failed, that has no state, or that `CONTROLS` has no word for.
    """
    shown: set[str] = set()  # the pictures that the page shows so far
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        outputs = []
        for output in cell.outputs:
            outputs += _replacement(output, models, shown) if VIEW in output.get("data", {}) else [output]
            shown |= set().union(*map(_pictures, outputs))
        cell.outputs = outputs


def _replacement(output: NotebookNode, models: Mapping[str, dict], shown: set[str]) -> list[NotebookNode]:
    """Return a widget's sentence, and those of its outputs whose pictures the page doesn't show already."""
    widgets = list(_walk(output.data[VIEW]["model_id"], models))
    text = _sentence(output, widgets)
    outputs = [nbformat.v4.new_output("display_data", {"text/plain": text})] if text else []
    for inner in (NotebookNode(inner) for widget in widgets for inner in widget["state"].get("outputs", ())):
        if inner.output_type == "error":
            raise StoreError(f"a widget failed with {inner.ename}: {inner.evalue}")
        if VIEW in inner.get("data", {}):
            outputs += _replacement(inner, models, shown)
        elif not _pictures(inner) & shown:
            outputs.append(inner)
    return outputs


def _sentence(output: NotebookNode, widgets: list[dict]) -> str:
    """Return the text that `show_widget` stored with a widget, or else a description of its controls.

    The plain text of a progress bar is its state, and that of other widgets is the repr of their models:
    neither is kept.
    """
    text = output.data.get("text/plain", "")
    is_bar = any("Progress" in widget["model_name"] for widget in widgets)
    return text if text and not re.match(r"\w+\(", text) and not is_bar else describe_controls(widgets)


def describe_controls(models: list[dict]) -> str:
    """Return a sentence that says which controls appear, or "" if there are none.

    Raises StoreError for a widget that `CONTROLS` has no word for.
    """
    names = [model["model_name"] for model in models]
    kinds = Counter(kind for name in names for kind, known in CONTROLS.items() if name in known)
    for name in names:
        is_control = not name.removesuffix("Model").endswith(NOT_CONTROLS)
        if is_control and not any(name in known for known in CONTROLS.values()):
            raise StoreError(f"there is no word for a {name}: add one to CONTROLS in {Path(__file__).name}")
    if not kinds:
        return ""
    *first, last = [_count(n, kind) for kind, n in kinds.items()]
    listed = f"{', '.join(first)} and {last}" if first else last
    verb = "appears" if kinds.total() == 1 else "appear"
    return f"{listed[0].upper()}{listed[1:]} {verb} here when you run this cell."


def _count(n: int, kind: str) -> str:
    return f"{NUMBERS[n] if n < len(NUMBERS) else n} {kind if n == 1 else CONTROLS[kind][0]}"


def _walk(model_id: str, models: Mapping[str, dict]) -> Iterator[dict]:
    """Yield a widget's model and those of all its children, in the order in which they are shown."""
    if model_id not in models:
        raise StoreError(f"no state of the widget {model_id}: a lesson shows only widgets of its own kernel")
    yield models[model_id]
    for child in models[model_id]["state"].get("children", ()):
        yield from _walk(child.removeprefix("IPY_MODEL_"), models)


def _pictures(output: Mapping) -> set[str]:
    """Return the base64 data of the pictures in an output's HTML."""
    return set(re.findall(r"base64,([^\"]+)", output.get("data", {}).get("text/html", "")))


def main(arguments: list[str] | None = None) -> int:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m course_lib.course.store", description=summary)
    parser.add_argument("notebooks", type=Path, nargs="+")
    paths = parser.parse_args(arguments).notebooks
    if absent := [str(path) for path in paths if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(absent)}")
    for path in paths:
        print(path, flush=True)
        try:
            notebook = execute(path)
            write_file(path, nbformat.writes(notebook) + "\n")
        except (CellExecutionError, DeadKernelError, StoreError, OSError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
