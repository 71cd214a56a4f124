"""Execute lessons and store them as pages that are whole without a kernel.

    python -m course_lib.course.store notebooks/04_multi_head_attention.ipynb

A widget lives only as long as its kernel: where one is stored, a page that is opened shows an error instead. So a sentence is stored in its
place ("Two sliders appear here when you run this cell."), and below it what the widget showed when the run ended, unless the page has it
already. Progress bars, and pictures that are drawn live, leave nothing.
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
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from course_lib.course.publish import write

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CONTROLS = {  # one of them: several of them, then the models so called
    "slider": ("sliders", "IntSliderModel", "FloatSliderModel", "SelectionSliderModel"),
    "menu": ("menus", "DropdownModel"),
    "text box": ("text boxes", "TextModel", "TextareaModel"),
    "tick box": ("tick boxes", "CheckboxModel"),
    "row of buttons": ("rows of buttons", "ToggleButtonsModel"),
    "button": ("buttons", "ButtonModel"),
}
SILENT = (
    "BoxModel",
    "TabModel",
    "AccordionModel",
    "OutputModel",
    "HTMLModel",
    "LabelModel",
    "ImageModel",
    "ProgressModel",
)  # endings
NUMBERS = ("no", "a", "two", "three", "four", "five", "six")


class StoreError(Exception):
    """Something to mend in the lesson; the message says what."""


class _Client(NotebookClient):
    """nbclient, but looking for the kernel's answer once a second. Where an Output widget is being filled, nbclient now and then isn't woken
    by the answer, and waits for ever: 12 of 60 runs of a notebook with four knobs, on a busy machine."""

    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        wait = client.shell_channel.get_msg

        async def look(timeout: float | None = None) -> dict:
            end = math.inf if timeout is None else monotonic() + timeout
            while True:
                try:
                    return await wait(timeout=max(0, min(1, end - monotonic())))
                except Empty:
                    if monotonic() >= end:
                        raise

        client.shell_channel.get_msg = look
        return client


def execute(path: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh run, as a newcomer would see it, and no more than the kernel's name besides.

    Raises CellExecutionError, which shows the cell, where one fails that isn't tagged `raises-exception`, and StoreError where a widget
    has failed.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": path.parent}}
    how = {"kernel_name": "python3", "timeout": None, "record_timing": False, "coalesce_streams": True}
    with tempfile.TemporaryDirectory() as home:
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "THIRSTY_TIGER_HOME": home}
        _Client(notebook, resources=resources, **how).execute(env=environment)
    models = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    settle(notebook, models)
    notebook.metadata = nbformat.from_dict(
        METADATA
    )  # no version, no state: what would differ from machine to machine
    return notebook


def settle(notebook: NotebookNode, models: Mapping[str, dict]) -> None:
    """Put into the place of each stored widget what stands for it. models: the state of every widget, by its id."""
    seen: set[str] = set()
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        settled = []
        for output in cell.outputs:
            settled += _settled(output, models, seen) if VIEW in output.get("data", {}) else [output]
            seen |= set().union(*map(_pictures, settled))
        cell.outputs = settled


def _settled(output: NotebookNode, models: Mapping[str, dict], seen: set[str]) -> list[NotebookNode]:
    """What stands for a widget: its sentence, and those of its outputs that the page doesn't show already."""
    tree = list(_tree(output.data[VIEW]["model_id"], models))
    own = output.data.get("text/plain", "")
    text = (
        own if own and not re.match(r"\w+\(", own) else describe(tree)
    )  # somebody's words (`show_widget`), or a list of models
    if any("Progress" in model["model_name"] for model in tree):
        text = describe(tree)  # not the bar as it stood
    shown = [nbformat.v4.new_output("display_data", {"text/plain": text})] if text else []
    for each in (NotebookNode(each) for model in tree for each in model["state"].get("outputs", ())):
        if each.output_type == "error":
            raise StoreError(f"a widget failed with {each.ename}: {each.evalue}")
        if VIEW in each.get("data", {}):
            shown += _settled(each, models, seen)
        elif not _pictures(each) & seen:
            shown.append(each)
    return shown


def describe(models: list[dict]) -> str:
    """A sentence that says which controls appear; "" where there are none."""
    kinds = Counter(
        kind for model in models for kind, names in CONTROLS.items() if model["model_name"] in names
    )
    for name in (model["model_name"] for model in models):
        if not name.endswith(SILENT) and not any(name in names for names in CONTROLS.values()):
            raise StoreError(f"there is no word for a {name}: add one to CONTROLS in {Path(__file__).name}")
    if not kinds:
        return ""
    *most, last = [_count(n, kind) for kind, n in kinds.items()]
    listed = f"{', '.join(most)} and {last}" if most else last
    verb = "appears" if kinds.total() == 1 else "appear"
    return f"{listed[0].upper()}{listed[1:]} {verb} here when you run this cell."


def _count(n: int, kind: str) -> str:
    return f"{NUMBERS[n] if n < len(NUMBERS) else n} {kind if n == 1 else CONTROLS[kind][0]}"


def _tree(model_id: str, models: Mapping[str, dict]) -> Iterator[dict]:
    """A widget's model and those of all that it holds, in the order in which they are shown."""
    if model_id not in models:
        raise StoreError(
            f"nothing is known of the widget {model_id}: a lesson shows only widgets of its own kernel"
        )
    yield (model := models[model_id])
    for child in model["state"].get("children", ()):
        yield from _tree(child.removeprefix("IPY_MODEL_"), models)


def _pictures(output: Mapping) -> set[str]:
    return set(re.findall(r"base64,([^\"]+)", output.get("data", {}).get("text/html", "")))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.course.store", description=__doc__.splitlines()[0]
    )
    parser.add_argument("notebooks", type=Path, nargs="+")
    paths = parser.parse_args(arguments).notebooks
    if absent := [str(path) for path in paths if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(absent)}")
    for path in paths:
        print(path, flush=True)
        try:
            notebook = execute(path)
        except (CellExecutionError, StoreError) as error:
            print(error, file=sys.stderr)
            return 1
        write(path, nbformat.writes(notebook) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
