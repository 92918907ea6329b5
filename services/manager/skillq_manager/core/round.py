"""What one call of `State.handle` shares among its parts."""

from dataclasses import dataclass, field

from skillq_manager.core.commands import Command
from skillq_manager.core.events import StoredStatus
from skillq_manager.core.model import TaskEntry, TaskKey


@dataclass(slots=True)
class RoundState:
    store: str = ""  # numbers the attempts
    now: float = 0.0
    commands: list[Command] = field(default_factory=list)
    runs: dict[str, bool] = field(
        default_factory=dict
    )  # may be complete; whether they were not before
    ended: dict[TaskKey, StoredStatus] = field(
        default_factory=dict
    )  # what the store cannot know yet
    moved_to_backlog: dict[TaskKey, TaskEntry] = field(default_factory=dict)  # likewise
    titles: dict[str, str] = field(default_factory=dict)  # of runs, likewise
    heartbeats_lost: bool = False  # the manager cannot hear workers: their silence says nothing
    listening_since: float = 0.0  # else: what they have said before may still be on its way

    def has_listened_for(self, seconds: float) -> bool:
        """Whether all that workers said so long ago has been heard."""
        return not self.heartbeats_lost and self.now - self.listening_since >= seconds

    def start(self, now: float) -> None:
        self.now = now
        self.commands = []
        self.runs.clear()
        self.ended.clear()
        self.moved_to_backlog.clear()
        self.titles.clear()
