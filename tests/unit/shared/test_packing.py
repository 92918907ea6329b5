"""Many items into few messages, none of them too large, none of them lost."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from skillq.messages import MAX_MESSAGE_BYTES, Task, TaskEvent, TaskEvents, TaskStatus
from skillq.transport import Outgoing
from skillq.transport.batching import check_readable, split_to_fit
from tests.support.factories import budget


def event(id: int, size: int) -> TaskEvent:
    return TaskEvent(id=str(id), status=TaskStatus.SUCCEEDED, attempt=1, at=0, output="x" * size)


def make(events: tuple[TaskEvent, ...]) -> Outgoing:
    return Outgoing.from_message(TaskEvents(run="run", task_type="task", events=events))


@budget(40)
@given(st.lists(st.sampled_from([0, 1000, 200_000, 600_000, MAX_MESSAGE_BYTES]), max_size=12))
def test_all_items_are_packed_in_order_but_those_too_large_for_any_message(
    sizes: list[int],
) -> None:
    items = [event(n, size) for n, size in enumerate(sizes)]
    messages, too_large = split_to_fit(make, items)
    assert all(len(message.body) <= MAX_MESSAGE_BYTES for message, _ in messages)
    packed = [item for _, part in messages for item in part]
    assert packed == [item for item in items if item not in too_large]
    assert [item.id for item in too_large] == [
        str(n) for n, size in enumerate(sizes) if size == MAX_MESSAGE_BYTES
    ]


def test_what_fits_into_one_message_is_one_message() -> None:
    messages, too_large = split_to_fit(make, [event(n, 10) for n in range(1000)])
    assert (len(messages), too_large) == (1, [])


def test_json_is_readable_as_deep_as_messages_can_carry_it() -> None:
    check_readable(b"[" * 150 + b"]" * 150)
    with pytest.raises(ValueError, match="recursion"):
        check_readable(b"[" * 190 + b"]" * 190)
    check_readable(Task(id="a", difficulty=1).model_dump_json().encode())
