"""The search for reference cycles, in processes that hold much and make much of what soon goes."""

import gc

_NEW, _YOUNG, _OLD = 50_000, 20, 100  # objects; searches of the generation before


def collect_rarely() -> None:
    """Reference counts free nearly everything at once; each search goes through what is held, and finds little.

    With Python's own thresholds, every batch of messages is worth several: a fifth of a worker's time.
    """
    gc.freeze()  # what was imported stays
    gc.set_threshold(_NEW, _YOUNG, _OLD)
