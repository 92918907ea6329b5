"""Assignments that are encoded from plain fields decode as their models."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from skillq.messages import Assignments, Task, TaskAssignment, decode
from skillq_manager.outbound.messages import assignment, assignments, attempt_ref
from skillq_manager.store.base import Body
from tests.support.factories import budget, profile

ADA = profile("Ada")
values = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
fields = st.fixed_dictionaries(
    {"difficulty": st.integers(1, 10)},
    optional={
        "description": st.text(max_size=5),
        "type": st.sampled_from(["task", "ocr"]),
        "priority": st.integers(1, 3),
        "requires": st.lists(st.sampled_from(["gpu", "lab"]), max_size=2),
        "payload": st.dictionaries(st.text(max_size=2), values, max_size=2),
        "timeout": st.none() | st.floats(0.1, 9),
    },
)
outputs = st.dictionaries(st.sampled_from(["a", "b"]), values)


@budget(200)
@given(entries=st.lists(st.tuples(fields, outputs, st.integers(1, 9)), min_size=1, max_size=3))
def test_an_encoded_assignment_decodes_as_its_model(
    entries: list[tuple[dict[str, Any], dict[str, Any], int]],
) -> None:
    expected, items = [], []
    for number, (definition, dependencies, attempt) in enumerate(entries):
        task = Task(id=f"t{number}", **definition)
        items.append(assignment(("run", task.id), attempt, Body.from_task(task, dependencies)))
        expected.append(
            TaskAssignment(
                run="run",
                id=task.id,
                attempt=attempt,
                task_type=task.type,
                description=task.description,
                difficulty=task.difficulty,
                priority=task.priority,
                requires=task.requires,
                payload=task.payload,
                dependencies=dependencies,
                timeout=task.timeout,
            )
        )
    message = decode(assignments(ADA, "a-store", items).body)
    assert isinstance(message, Assignments)
    assert message.tasks == tuple(expected)
    assert (message.worker, message.incarnation, message.store) == (
        "ada",
        ADA.incarnation,
        "a-store",
    )
    assert [attempt_ref(item) for item in items] == [
        attempt_ref(task.model_dump()) for task in expected
    ]
