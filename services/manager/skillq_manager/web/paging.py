"""Lists in pages, so that a long list does not block the manager's event loop."""

import asyncio
import json
from base64 import b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

MAX_PAGE_BYTES = 4 * 1024 * 1024
_ITEMS_PER_PASS = 25

Row = TypeVar("Row")


class PageQuery(BaseModel):
    """The parameters of a list. Unknown parameters are refused, not ignored.

    To ignore a misspelled filter would return other items than the sender meant.
    """

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = None

    @property
    def after_text(self) -> str:
        """Return the decoded cursor; "" for the first page.

        Raises:
            HTTPException: 422, no list has returned this cursor.
        """
        try:
            return b64decode((self.cursor or "").encode(), b"-_", validate=True).decode()
        except (Error, ValueError) as error:
            raise HTTPException(422, "cursor: is none that a list has answered") from error

    @property
    def after_number(self) -> int:
        """Return the decoded cursor as a number; 0 for the first page.

        Raises:
            HTTPException: 422, no list has returned this cursor.
        """
        after = self.after_text
        if not after:
            return 0
        if not (after.isascii() and after.isdigit() and len(after) < 19):  # noqa: PLR2004 - 64 bits
            raise HTTPException(422, "cursor: is none that a list has answered")
        return int(after)


def _encode_cursor(after: str) -> str:
    return urlsafe_b64encode(after.encode()).decode()


async def page_response(
    rows: Sequence[Row],
    limit: int,
    make_view: Callable[[Row], BaseModel],
    cursor: Callable[[Row], str],
) -> Response:
    """Return the first `limit` rows as a page; a further row means that more follow.

    A page with large items ends early. Other tasks of the event loop run while a page is made.
    """
    items: list[str] = []
    size = 0
    for row in rows[:limit]:
        if size > MAX_PAGE_BYTES:
            break
        items.append(make_view(row).model_dump_json())
        size += len(items[-1])
        if len(items) % _ITEMS_PER_PASS == 0:
            await asyncio.sleep(0)
    next_cursor = _encode_cursor(cursor(rows[len(items) - 1])) if len(items) < len(rows) else None
    body = f'{{"items":[{",".join(items)}],"next_cursor":{json.dumps(next_cursor)}}}'
    return Response(body, media_type="application/json")
