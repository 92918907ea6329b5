"""The client of skillq: submits tasks over the broker and follows them to their end."""

from skillq.client.client import Client, RunResult
from skillq.client.run import OpenRun
from skillq.client.submission import Receipt

__all__ = ["Client", "OpenRun", "Receipt", "RunResult"]
