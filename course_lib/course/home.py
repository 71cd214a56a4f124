"""Where the learner's own files lie: their progress, and the parts of their model.

They lie in the course's folder, beside `notebooks/`, or in the folder that the environment variable
THIRSTY_TIGER_HOME names (on Colab, whose disk isn't kept, that can be a folder of a mounted Drive).
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_lib.whole_files import replacing

ROOT = Path(__file__).parents[2]
FILE_ERRORS = (OSError, RuntimeError)  # pathlib raises RuntimeError where there is no home folder


def home() -> Path:
    """Return the folder of the learner's own files. It needn't exist yet."""
    named = os.environ.get("THIRSTY_TIGER_HOME")
    return Path(named).expanduser() if named else ROOT


def earlier_home() -> Path | None:
    """Return the folder in which earlier versions of the course kept the progress, if it isn't `home()`."""
    return None if os.environ.get("THIRSTY_TIGER_HOME") else Path("~/.thirsty-tiger").expanduser()


def next_free(file: Path) -> Path:
    """Return the first of `name.1.ext`, `name.2.ext`… that doesn't exist yet."""
    numbered = (file.with_suffix(f".{n}{file.suffix}") for n in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def write_file(file: Path, text: str) -> None:
    """Write a file whole or not at all, with the text's own line ends.

    Raises OSError where it can't be written, also for a file that is read-only.
    """
    with replacing(file) as written:
        written.write_text(text, encoding="utf-8", newline="")


@contextmanager
def locked() -> Iterator[None]:
    """Keep other kernels and threads from changing the learner's files. The folder is made if there is none.

    A block under this lock can't take it a second time. Raises OSError if nothing can be written in the
    folder, or if the files aren't free for ten seconds.
    """
    import portalocker  # imported here, so that start() can still say that it is missing

    home().mkdir(parents=True, exist_ok=True)
    lock = portalocker.Lock(home() / ".thirsty-tiger.lock", timeout=10, check_interval=0.02)
    try:
        lock.acquire()
    except portalocker.AlreadyLocked as error:
        raise OSError(f"another program is writing in {home()}") from error
    except portalocker.LockException:
        pass  # some mounted disks have no locks: to save without one is better than not to save
    try:
        yield
    finally:
        lock.release()
