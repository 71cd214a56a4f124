"""The learner's progress, stored in a JSON file."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

KINDS = ("exercises", "quiz")
FILE_ERRORS = (OSError, RuntimeError)  # pathlib raises RuntimeError where there is no home folder


class Record:
    """The ids of passed exercises and of correctly answered questions, in `progress.json`.

    The file is in `~/.thirsty-tiger`, or in the folder named by the environment variable THIRSTY_TIGER_HOME
    (on Colab, whose disk isn't kept, that can be a folder of a mounted Drive). A file that can't be read is
    renamed and never overwritten. Where no file can be written, the record lasts until the kernel stops.
    """

    def __init__(self) -> None:
        self._unsaved: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._warned = False

    def done(self) -> dict[str, list[str]]:
        """Return `{"exercises": [ids], "quiz": [ids]}`."""
        try:
            saved = self._read()
        except FILE_ERRORS:
            saved = {}
        return {kind: sorted({*saved.get(kind, []), *self._unsaved[kind]}) for kind in KINDS}

    def add(self, kind: str, id: str) -> None:
        if id not in self.done()[kind]:
            self._unsaved[kind].add(id)
            self._save()

    def reset(self) -> None:
        """Start a new record. The old file is kept beside the new one."""
        self._unsaved = {kind: set() for kind in KINDS}
        try:
            kept = f" The old record is kept as {_set_aside(self._file())}." if self._file().exists() else ""
            print(f"Your progress starts afresh.{kept}")
        except FILE_ERRORS as error:
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
        kept = _set_aside(file)
        print(f"Your progress file could not be read. It is kept as {kept}, and a new one begins.")
        return {}

    def _save(self) -> None:
        try:
            self._file().parent.mkdir(parents=True, exist_ok=True)
            _write(self._file(), json.dumps({**self._read(), **self.done()}, indent=1))
            self._unsaved = {kind: set() for kind in KINDS}
        except FILE_ERRORS as error:
            self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            print(f"(Your progress can't be saved here and lasts until the kernel stops: {error})")
        self._warned = True


def _is_record(saved: Any) -> bool:
    lists = [saved.get(kind, []) for kind in KINDS] if isinstance(saved, dict) else [None]
    return all(isinstance(ids, list) and all(isinstance(id, str) for id in ids) for ids in lists)


def _write(file: Path, text: str) -> None:
    """Write a file atomically: after an error it has its old content."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _set_aside(file: Path) -> str:
    """Rename a file to the first free path of `progress.1.json`, `progress.2.json`… and return that path."""
    free = next(name for n in itertools.count(1) if not (name := file.with_suffix(f".{n}.json")).exists())
    os.replace(file, free)
    return str(free)
