"""Make Python's search for reference cycles rarer, for processes that hold many objects."""

import gc

# New objects before a search; searches of one generation before a search of the next.
_NEW, _YOUNG, _OLD = 50_000, 20, 100


def collect_rarely() -> None:
    """Set higher thresholds for the search for reference cycles.

    Reference counts free nearly all objects at once; each search visits all objects that are held, and finds
    few cycles. With Python's own thresholds each batch of messages causes several searches, which cost a fifth
    of a worker's time.
    """
    gc.freeze()  # imported modules stay: no search needs to visit them
    gc.set_threshold(_NEW, _YOUNG, _OLD)
