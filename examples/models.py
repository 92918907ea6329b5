"""Handlers for examples/resilient.yaml: a small model, and a large one that can explain.

The models stand for language models behind an API. No code here calls a language model.
"""

import asyncio

from skillq_worker import Context, Handlers

small = Handlers()
large = Handlers()


class Unsure(Exception):
    """Raised by a model that does not trust its own answer."""


class NoQuestion(ValueError):
    """Raised for a text that is not a question: no model can answer it."""


@small.task("ask")
def ask_small(question: str) -> str:
    """Answer a question by the small model, which cannot explain."""
    check(question)
    if "why" in question.lower():
        raise Unsure("the small model cannot explain")
    return f"small: {question} Yes."


@large.task("ask")
def ask_large(question: str, context: Context) -> str:
    """Answer a question by the large model."""
    check(question)
    if "everything" in question and context.attempt == 1:
        raise Unsure("not at the first try")
    return f"large: {question} Because."


def check(question: str) -> None:
    """Raise NoQuestion for a text that does not end as a question."""
    if not question.endswith("?"):
        raise NoQuestion(f"{question!r} is no question")


@small.task("fetch")
@large.task("fetch")
def fetch(page: str, context: Context) -> str:
    """Fetch a page from a server that resets the first connection."""
    if context.attempt == 1:
        raise ConnectionResetError(f"{page}: connection reset by peer")
    return page


@small.task("train")
@large.task("train")
async def train(seconds: float) -> str:
    """Train for some seconds; a cancellation ends the training at once."""
    await asyncio.sleep(seconds)
    return "trained"


@small.task("report")
@large.task("report")
def report(context: Context) -> list[str]:
    """Return the ids of the dependencies that have an output; only a succeeded task has one."""
    return sorted(id for id, output in context.dependencies.items() if output is not None)
