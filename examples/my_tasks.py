"""Examples of handlers: typed functions, registered by task type.

`ocr.yaml` has tasks for them. A worker imports this file as a module, from the folder it was started in (or from PYTHONPATH):

    skillq worker examples.my_tasks:handlers --name ocr-1 --skill 6 --specialty ocr --slots 4

in the repository's root, or `my_tasks:handlers` in this folder. If a payload does not fit the parameters of
its function, the task fails, and the error names the field.
"""

import asyncio
import re
from collections import Counter

from pydantic import BaseModel

from skillq_worker import Context, Handlers

handlers = Handlers()


class Page(BaseModel):
    """The output of `ocr`. A handler may return any value that can be written as JSON."""

    words: int
    often: dict[str, int]


@handlers.task("ocr")
def count_words(text: str, at_least: int = 2) -> Page:
    """Count the words. A plain function runs on a thread of its own, so it may block.

    The payload of the task fills the parameters.
    """
    counts = Counter(re.findall(r"\w+", text.lower()))
    return Page(
        words=counts.total(), often={word: n for word, n in counts.items() if n >= at_least}
    )


@handlers.task
async def tally(title: str, context: Context) -> dict[str, object]:
    """Add up the pages. An async function shares one event loop with other async handlers.

    Without a name in the decorator, the function handles the type of its own name, `tally`.
    """
    await asyncio.sleep(0)  # a real handler would wait for a database or a model here
    # The outputs of the dependencies, by task id, as decoded from JSON.
    pages = {id: Page.model_validate(output) for id, output in context.dependencies.items()}
    return {"title": title, "pages": len(pages), "words": sum(p.words for p in pages.values())}
