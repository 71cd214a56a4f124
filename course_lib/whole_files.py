"""Files that are written whole or not at all."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the path of a file to write in the block; as the block ends, it takes the place of `path`.

        with replacing("scores.json") as file:
            file.write_text("{}")

    After an error `path` is as it was, and nothing is left beside it. A link stays a link, and an existing
    file's permissions stay. Where programs or threads write at once, the last one's file stays, whole.

    Raises FileNotFoundError where the folder is missing, ValueError for a path that no file can have or where
    there is something else than a file, and PermissionError for a file that is read-only.
    """
    _check_name(Path(path))
    path = Path(os.path.realpath(path))
    _check_place(path)
    written = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield written
        if path.exists():
            shutil.copymode(path, written)
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)


def _check_name(path: Path) -> None:
    """Raise ValueError for a path that names no file, or that no file system can store."""
    try:
        storable = "\0" not in os.fsencode(path).decode(errors="replace") and bool(path.name)
    except UnicodeEncodeError:
        storable = False
    if not storable:
        raise ValueError(f"no file can be called {str(path)!r}")


def _check_place(path: Path) -> None:
    """Raise an error, which says why, where no file can be written or replaced."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into: make it first")
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no file that may be replaced"
        raise ValueError(f"{path} is {what}: give the name of a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only")
