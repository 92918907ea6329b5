"""What a turn of the core costs a database."""

from skillq_manager.store.sql import statements as s
from skillq_manager.store.sql.writes import WriteBatch
from tests.support.commands import add, assign


def test_a_task_that_is_given_out_as_soon_as_it_comes_is_written_once() -> None:
    first, later = add(1), add(2)
    rows = dict(WriteBatch([first, later, assign(first)]).groups())
    assert [row[3] for row in rows[s.ADD_TASK]] == ["assigned", "ready"]
    assert s.ASSIGN not in rows
    assert len(dict(WriteBatch([assign(later)]).groups())[s.ASSIGN]) == 1
