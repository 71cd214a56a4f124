"""What a learner has done, kept in one JSON file of their own."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

KINDS = ("exercises", "quiz")
CANNOT = (OSError, RuntimeError)  # no permission, no space; RuntimeError is how pathlib says "no home folder"


class Record:
    """The ids of passed exercises and rightly answered questions, in ``progress.json``.

    The file lies in ``~/.thirsty-tiger``, or in the folder named by the variable THIRSTY_TIGER_HOME (on Colab,
    whose disk is forgotten, a folder of a mounted Drive). A file that can't be read is set aside, never
    overwritten; where nothing can be written, the record lasts as long as the kernel.
    """

    def __init__(self) -> None:
        self._unsaved: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._told = False

    def done(self) -> dict[str, list[str]]:
        """``{"exercises": [ids], "quiz": [ids]}``."""
        try:
            saved = self._read()
        except CANNOT:
            saved = {}
        return {kind: sorted({*saved.get(kind, []), *self._unsaved[kind]}) for kind in KINDS}

    def add(self, kind: str, id: str) -> None:
        if id not in self.done()[kind]:
            self._unsaved[kind].add(id)
            self._save()

    def reset(self) -> None:
        """Start afresh. The old file is kept beside the new one."""
        self._unsaved = {kind: set() for kind in KINDS}
        try:
            kept = f" The old record is kept as {_set_aside(self._file())}." if self._file().exists() else ""
            print(f"Your progress starts afresh.{kept}")
        except CANNOT as error:
            print(f"Your progress could not be reset: {error}.")

    def _file(self) -> Path:
        return Path(os.environ.get("THIRSTY_TIGER_HOME") or "~/.thirsty-tiger").expanduser() / "progress.json"

    def _read(self) -> dict[str, list[str]]:
        file = self._file()
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            saved = None
        if _is_record(saved):
            return saved
        print(
            f"Your progress file could not be read. It is kept as {_set_aside(file)}, and a new one begins."
        )
        return {}

    def _save(self) -> None:
        try:
            self._file().parent.mkdir(parents=True, exist_ok=True)
            _write(self._file(), json.dumps({**self._read(), **self.done()}, indent=1))
            self._unsaved = {kind: set() for kind in KINDS}
        except CANNOT as error:
            self._tell_once(error)

    def _tell_once(self, error: Exception) -> None:
        if not self._told:
            print(f"(Your progress can't be saved here and lasts until the kernel stops: {error})")
        self._told = True


def _is_record(saved: Any) -> bool:
    lists = [saved.get(kind, []) for kind in KINDS] if isinstance(saved, dict) else [None]
    return all(isinstance(ids, list) and all(isinstance(id, str) for id in ids) for ids in lists)


def _write(file: Path, text: str) -> None:
    """Write a whole file or nothing."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _set_aside(file: Path) -> str:
    """Rename a file to the first free of ``progress.1.json``, ``progress.2.json``… and return that path."""
    free = next(name for n in itertools.count(1) if not (name := file.with_suffix(f".{n}.json")).exists())
    os.replace(file, free)
    return str(free)
