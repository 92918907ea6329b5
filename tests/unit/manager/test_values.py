"""Numbers that JSON cannot express are refused over HTTP, too."""

import pytest

from tests.support.manager_harness import ApiHarness, error_line

BODY = '{"tasks": [{"id": "a", "difficulty": 1, "payload": {"x": [%s]}}]}'
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(("written", "read"), [("1e999", "inf"), ("-1e999", "-inf")])
async def test_a_number_that_is_too_large_for_a_float_is_refused(
    api: ApiHarness, written: str, read: str
) -> None:
    answer = await api.http.post("/api/tasks", content=BODY % written, headers=JSON)
    assert error_line(answer, 422) == (
        f"task a: payload: x.0 is {read}, which JSON cannot express; write null or text instead"
    )


async def test_the_largest_float_is_accepted(api: ApiHarness) -> None:
    answer = await api.http.post("/api/tasks", content=BODY % "1.7e308", headers=JSON)
    assert answer.status_code == 201
