"""Interrupts (Ctrl+C, or Jupyter's stop button): what must be done wholly or not at all isn't cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back an interrupt that arrives inside the block, and raise it as the block ends.

    Python delivers interrupts to the main thread only, so in other threads there is nothing to hold back.
    Nothing is done either where no Python function handles interrupts.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held = []
    signal.signal(signal.SIGINT, lambda *interrupt: held.append(interrupt))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])
