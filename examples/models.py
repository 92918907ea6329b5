"""The work of examples/resilient.yaml: two models, of which the small one does not know everything.

They stand for language models behind an API. Nothing here calls one.
"""

import asyncio

from skillq_worker import Context, Handlers

small = Handlers()
large = Handlers()


class Unsure(Exception):
    """Raised by a model that does not trust its own answer."""


class NoQuestion(ValueError):
    """Raised where no model can help."""


@small.task("ask")
def ask_small(question: str) -> str:
    check(question)
    if "why" in question.lower():
        raise Unsure("the small model cannot explain")
    return f"small: {question} Yes."


@large.task("ask")
def ask_large(question: str, context: Context) -> str:
    check(question)
    if "everything" in question and context.attempt == 1:
        raise Unsure("not at the first try")
    return f"large: {question} Because."


def check(question: str) -> None:
    if not question.endswith("?"):
        raise NoQuestion(f"{question!r} is no question")


@small.task("fetch")
@large.task("fetch")
def fetch(page: str, context: Context) -> str:
    """A server that resets the first connection."""
    if context.attempt == 1:
        raise ConnectionResetError(f"{page}: connection reset by peer")
    return page


@small.task("train")
@large.task("train")
async def train(seconds: float) -> str:
    """Takes its time; whoever calls it off ends it at once."""
    await asyncio.sleep(seconds)
    return "trained"


@small.task("report")
@large.task("report")
def report(context: Context) -> list[str]:
    """Which of the tasks it depends on have an output; a task that did not succeed has none."""
    return sorted(id for id, output in context.dependencies.items() if output is not None)
