"""The learner's progress, stored in a JSON file."""

import json
import os
import re
from pathlib import Path
from typing import Any

from course_lib.course.home import FILE_ERRORS, earlier_home, home, locked, next_free, write_file

KINDS = ("exercises", "quiz")
OLD_IDS = Path(__file__).with_name("old_ids.json")  # what ids were called when lessons were known by number


class Record:
    """The ids of passed exercises and of rightly answered questions, in the learner's `progress.json`.

    A file that can't be read is renamed and never overwritten. Where no file can be written, the record lasts
    until the kernel stops. Where there is no record yet, that of an earlier version of the course is taken
    over, and left where it lies.
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
            self._take_over()
            kept = f" The old record is kept as {_set_aside(_file())}." if _file().exists() else ""
            print(f"Your progress starts afresh.{kept}")
        except FILE_ERRORS as error:
            print(f"Your progress could not be reset: {str(error).rstrip('.')}.")

    def _read(self) -> dict[str, list[str]]:
        """Return what the record's file says, or the one that is to be taken over, under today's ids."""
        for file in (_file(), _earlier_file()):
            try:
                saved = json.loads(file.read_text(encoding="utf-8")) if file else {}
            except FileNotFoundError:
                continue
            except ValueError:
                saved = None
            if _is_record(saved):
                return _renamed(saved)
            kept = _set_aside(file)
            print(f"Your progress file could not be read. It is kept as {kept}, and a new one begins.")
        return {}

    def _take_over(self) -> None:
        """Write the record that was kept in the earlier home into today's, unless there is one already."""
        if not _file().exists() and (saved := self._read()):
            with locked():
                write_file(_file(), json.dumps(saved, indent=1))

    def _save(self) -> None:
        try:
            with locked():
                write_file(_file(), json.dumps({**self._read(), **self.done()}, indent=1))
            self._unsaved = {kind: set() for kind in KINDS}
        except FILE_ERRORS as error:
            self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            print(f"(Your progress can't be saved here and lasts until the kernel stops: {error})")
        self._warned = True


def _file() -> Path:
    return home() / "progress.json"


def _earlier_file() -> Path | None:
    """Return the file of an earlier version of the course, unless a record has begun in today's home."""
    earlier = earlier_home()
    begun = any(re.fullmatch(r"progress(\.\d+)?\.json", file.name) for file in home().glob("progress*"))
    return earlier / "progress.json" if earlier and not begun else None


def _is_record(saved: Any) -> bool:
    lists = [saved.get(kind, []) for kind in KINDS] if isinstance(saved, dict) else [None]
    return all(isinstance(ids, list) and all(isinstance(id, str) for id in ids) for ids in lists)


def _renamed(saved: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the ids of earlier versions replaced by today's."""
    today = json.loads(OLD_IDS.read_text(encoding="utf-8"))
    renamed = {kind: sorted({today.get(id, id) for id in saved[kind]}) for kind in KINDS if kind in saved}
    return {**saved, **renamed}


def _set_aside(file: Path) -> str:
    """Rename a file to `progress.1.json`, or the next number that is free, and return that path."""
    free = next_free(file)
    os.replace(file, free)
    return str(free)
