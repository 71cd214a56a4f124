"""The learner's progress, stored in a JSON file."""

import json
import os
import re
from pathlib import Path
from typing import Any

from course_lib.course.home import FILE_ERRORS, earlier_home, home, locked, next_free, write_file

KINDS = ("exercises", "quiz")
LARGEST = 10_000_000  # bytes; a record has some thousand
OLD_IDS = Path(__file__).with_name("old_ids.json")  # what ids were called when lessons were known by number


class Record:
    """The ids of passed exercises and of rightly answered questions, in the learner's `progress.json`.

    Kernels and threads that add to it at once lose nothing. A file that can't be read is renamed and never
    overwritten. Where no file can be written, the record lasts until the kernel stops. Where there is no
    record yet, that of an earlier version of the course is taken over, and left where it lies.
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
        kept = ""
        try:
            if any(file.exists() for file in _files()):
                with locked():
                    self._take_over()
                    kept = f" The old record is kept as {_set_aside(_file())}." if _file().exists() else ""
            print(f"Your progress starts afresh.{kept}")
        except FILE_ERRORS as error:
            print(f"Your progress could not be reset: {str(error).rstrip('.')}.")

    def _read(self) -> dict[str, Any]:
        """Return what the record's file says. A damaged one is set aside, which takes the lock."""
        try:
            return _saved()
        except _DamagedError:
            with locked():
                return self._read_locked()

    def _read_locked(self) -> dict[str, Any]:
        """Return what `_read` does, for callers that have the lock."""
        while True:
            try:
                return _saved()
            except _DamagedError as damaged:  # still, and not set aside by another kernel meanwhile
                kept = _set_aside(damaged.file)
                print(f"Your progress file could not be read. It is kept as {kept}, and a new one begins.")

    def _take_over(self) -> None:
        """Write the record that was kept in the earlier home into today's, unless there is one already."""
        if not _file().exists() and (saved := self._read_locked()):
            write_file(_file(), json.dumps(saved, indent=1))

    def _save(self) -> None:
        unsaved = {kind: set(ids) for kind, ids in self._unsaved.items()}  # other threads may add meanwhile
        try:
            with locked():
                saved = self._read_locked()
                marks = {kind: sorted({*saved.get(kind, ()), *unsaved[kind]}) for kind in KINDS}
                write_file(_file(), json.dumps({**saved, **marks}, indent=1))
        except FILE_ERRORS as error:
            self._warn_once(error)
            return
        for kind in KINDS:
            self._unsaved[kind] -= unsaved[kind]

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            print(f"(Your progress can't be saved here and lasts until the kernel stops: {error})")
        self._warned = True


class _DamagedError(Exception):
    """A file that is no record."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.file = file


def _file() -> Path:
    return home() / "progress.json"


def _earlier_file() -> Path | None:
    """Return the file of an earlier version of the course, unless a record has begun in today's home."""
    earlier = earlier_home()
    begun = any(re.fullmatch(r"progress(\.\d+)?\.json", file.name) for file in home().glob("progress*"))
    return earlier / "progress.json" if earlier and not begun else None


def _files() -> list[Path]:
    """Return where the record may stand: in its file, or in the one that is to be taken over."""
    return [file for file in (_file(), _earlier_file()) if file]


def _saved() -> dict[str, Any]:
    """Return what the first of `_files` says, under today's ids, and nothing if there is none.

    Raises _DamagedError if it is no record.
    """
    for file in _files():
        try:
            return _renamed(_parse(file))
        except FileNotFoundError:
            continue
        except (ValueError, RecursionError) as error:
            raise _DamagedError(file) from error
    return {}


def _parse(file: Path) -> dict[str, Any]:
    """Return a file's record. Raises ValueError if it is none, and RecursionError if it nests too deeply."""
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file} is too large for a record")
    saved = json.loads(file.read_text(encoding="utf-8-sig"))
    json.dumps(saved, indent=1)  # what can be read can't always be written again: this nests less deeply
    if not _is_record(saved):
        raise ValueError(f"{file} is no record")
    return saved


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
