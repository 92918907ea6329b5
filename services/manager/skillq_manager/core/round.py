"""The data that the parts of the core share during one call of `State.handle`."""

from dataclasses import dataclass, field

from skillq_manager.core.commands import Command
from skillq_manager.core.events import StoredStatus
from skillq_manager.core.model import TaskEntry, TaskKey


@dataclass(slots=True)
class RoundState:
    """The time, the commands and the unwritten changes of a round. One object serves all.

    The store does not know yet what is in `ended`, `moved_to_backlog` and `run_titles`. Times are
    in seconds.
    """

    store: str = ""  # the id of the store that numbers the attempts
    now: float = 0.0
    commands: list[Command] = field(default_factory=list)
    # Runs that may be complete now, and whether this round added or ended one of their tasks.
    affected_runs: dict[str, bool] = field(default_factory=dict)
    ended: dict[TaskKey, StoredStatus] = field(default_factory=dict)
    moved_to_backlog: dict[TaskKey, TaskEntry] = field(default_factory=dict)
    run_titles: dict[str, str] = field(default_factory=dict)
    heartbeats_lost: bool = False  # no message of a worker can reach the manager
    listening_since: float = 0.0  # since when messages of workers have reached the manager in time

    def has_listened_for(self, seconds: float) -> bool:
        """Return whether all messages that workers sent `seconds` ago have been received."""
        return not self.heartbeats_lost and self.now - self.listening_since >= seconds

    def start(self, now: float) -> None:
        """Begin a new round at `now`, with no commands and no unwritten changes."""
        self.now = now
        self.commands = []
        self.affected_runs.clear()
        self.ended.clear()
        self.moved_to_backlog.clear()
        self.run_titles.clear()
