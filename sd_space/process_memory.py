"""The memory of this process: Python's garbage collector and the C library's allocator."""

import ctypes
import gc


def freeze_gc() -> None:
    """Runs a full collection, then `gc.freeze()`s the survivors, so that later collections skip them.

    A full collection over all that torch and a page have made stops every thread for 0.3 to 0.4 s, at any moment of a
    run (picture book, 2 slow cores).
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def tune_malloc() -> bool:
    """Keeps in this process what a step on the CPU frees, for the next step. False where there is no glibc.

    A step allocates and frees gigabytes in large blocks. By default each goes back to the system and is mapped again
    page by page, which cost a fifth of a step. With this the process stays as large as its largest step was. Must be
    called before threads start: one that has an arena of its own keeps taking large blocks from the system.
    """
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return all(mallopt(*pair) for pair in ((m_arena_max, 1), (m_mmap_max, 0), (m_trim_threshold, 2**31 - 1)))
