"""How many rows a round of the core writes."""

from skillq_manager.store.sql import statements as s
from skillq_manager.store.sql.writes import WriteBatch
from tests.support.commands import add, assign


def test_a_task_that_is_added_and_assigned_in_one_round_is_written_once() -> None:
    first, later = add(1), add(2)
    rows = dict(WriteBatch([first, later, assign(first)]).groups())
    assert [row[3] for row in rows[s.ADD_TASK]] == ["assigned", "ready"]
    assert s.ASSIGN not in rows
    assert len(dict(WriteBatch([assign(later)]).groups())[s.ASSIGN]) == 1
