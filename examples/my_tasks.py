"""Handlers of one's own: typed functions, registered by task type. `ocr.yaml` has tasks for them.

A worker imports this file as a module, from the folder it was started in (or from PYTHONPATH):

    skillq worker examples.my_tasks:handlers --name ocr-1 --skill 6 --specialty ocr --slots 4

in the repository's root, or `my_tasks:handlers` in this folder. See for yourself: a payload that does not fit
its function's parameters fails the task, and names the field.
"""

import asyncio
import re
from collections import Counter

from pydantic import BaseModel

from skillq_worker import Context, Handlers

handlers = Handlers()


class Page(BaseModel):
    """What is returned may be anything that can be written as JSON: a model, a dict, a list, a number."""

    words: int
    often: dict[str, int]


@handlers.task("ocr")
def count_words(text: str, at_least: int = 2) -> Page:
    """A plain function runs on a thread of its own, so it may block. The payload fills its parameters."""
    counts = Counter(re.findall(r"\w+", text.lower()))
    return Page(
        words=counts.total(), often={word: n for word, n in counts.items() if n >= at_least}
    )


@handlers.task
async def tally(title: str, context: Context) -> dict[str, object]:
    """An async function shares a loop with others. Under its own name it handles the type `tally`."""
    await asyncio.sleep(0)  # where yours would wait for a database or a model
    # Outputs of the tasks it depends on, by id, as JSON gives them back.
    pages = {id: Page.model_validate(output) for id, output in context.dependencies.items()}
    return {"title": title, "pages": len(pages), "words": sum(p.words for p in pages.values())}
