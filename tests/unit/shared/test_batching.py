"""Many items are split into few messages; no message is too large and no item is lost."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from skillq.messages import MAX_MESSAGE_BYTES, Task, TaskEvent, TaskEvents, TaskStatus
from skillq.transport import Outgoing
from skillq.transport.batching import check_readable, split_to_fit
from tests.support.factories import budget


def event(id: int, size: int) -> TaskEvent:
    return TaskEvent(id=str(id), status=TaskStatus.SUCCEEDED, attempt=1, at=0, output="x" * size)


def to_message(events: tuple[TaskEvent, ...]) -> Outgoing:
    return Outgoing.from_message(TaskEvents(run="run", task_type="task", events=events))


@budget(40)
@given(st.lists(st.sampled_from([0, 1000, 200_000, 600_000, MAX_MESSAGE_BYTES]), max_size=12))
def test_items_are_batched_in_order_and_too_large_ones_are_returned_apart(
    sizes: list[int],
) -> None:
    items = [event(n, size) for n, size in enumerate(sizes)]
    messages, too_large = split_to_fit(to_message, items)
    assert all(len(message.body) <= MAX_MESSAGE_BYTES for message, _ in messages)
    batched = [item for _, part in messages for item in part]
    assert batched == [item for item in items if item not in too_large]
    assert [item.id for item in too_large] == [
        str(n) for n, size in enumerate(sizes) if size == MAX_MESSAGE_BYTES
    ]


def test_items_that_fit_into_one_message_are_one_message() -> None:
    messages, too_large = split_to_fit(to_message, [event(n, 10) for n in range(1000)])
    assert (len(messages), too_large) == (1, [])


def test_json_nested_deeper_than_a_message_can_carry_is_refused() -> None:
    check_readable(b"[" * 150 + b"]" * 150)
    with pytest.raises(ValueError, match="recursion"):
        check_readable(b"[" * 190 + b"]" * 190)
    check_readable(Task(id="a", difficulty=1).model_dump_json().encode())
