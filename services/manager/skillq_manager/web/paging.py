"""Lists in pages, so that no listing, however long, holds up the manager's loop."""

import asyncio
import json
from base64 import b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

MAX_PAGE_BYTES = 4 * 1024 * 1024
_ITEMS_PER_TURN = 25

Row = TypeVar("Row")


class PageQuery(BaseModel):
    """A parameter that we do not know is refused: passed over, it would answer another question."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = None

    @property
    def after(self) -> str:
        """What the cursor holds; "" at the beginning.

        Raises:
            HTTPException: it is none of ours.
        """
        try:
            return b64decode((self.cursor or "").encode(), b"-_", validate=True).decode()
        except (Error, ValueError) as error:
            raise HTTPException(422, "cursor: is none that a list has answered") from error

    @property
    def after_number(self) -> int:
        after = self.after
        if not after:
            return 0
        if not (after.isascii() and after.isdigit() and len(after) < 19):  # noqa: PLR2004 - 64 bits
            raise HTTPException(422, "cursor: is none that a list has answered")
        return int(after)


def _opaque(after: str) -> str:
    return urlsafe_b64encode(after.encode()).decode()


async def page(
    rows: Sequence[Row],
    limit: int,
    view: Callable[[Row], BaseModel],
    cursor: Callable[[Row], str],
) -> Response:
    """`rows` is one more than `limit` where there are more.

    A page ends early where its items are large, and lets others go on while it is made.
    """
    items: list[str] = []
    size = 0
    for row in rows[:limit]:
        if size > MAX_PAGE_BYTES:
            break
        items.append(view(row).model_dump_json())
        size += len(items[-1])
        if len(items) % _ITEMS_PER_TURN == 0:
            await asyncio.sleep(0)
    following = _opaque(cursor(rows[len(items) - 1])) if len(items) < len(rows) else None
    body = f'{{"items":[{",".join(items)}],"next_cursor":{json.dumps(following)}}}'
    return Response(body, media_type="application/json")
