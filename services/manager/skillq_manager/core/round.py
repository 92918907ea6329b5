"""What one call of `State.handle` shares among its parts."""

from dataclasses import dataclass, field

from skillq_manager.core.commands import Command, Known
from skillq_manager.core.model import TaskEntry, TaskKey


@dataclass(slots=True)
class Turn:
    store: str = ""  # numbers the attempts
    now: float = 0.0
    out: list[Command] = field(default_factory=list)
    runs: dict[str, bool] = field(
        default_factory=dict
    )  # may be complete; whether they were not before
    ended: dict[TaskKey, Known] = field(default_factory=dict)  # what the store cannot know yet
    shelved: dict[TaskKey, TaskEntry] = field(default_factory=dict)  # likewise
    titles: dict[str, str] = field(default_factory=dict)  # of runs, likewise
    blind: bool = False  # the manager cannot hear workers: their silence says nothing
    hears_since: float = 0.0  # else: what they have said before may still be on its way

    def has_heard_for(self, seconds: float) -> bool:
        """Whether all that workers said so long ago has been heard."""
        return not self.blind and self.now - self.hears_since >= seconds

    def begin(self, now: float) -> None:
        self.now = now
        self.out = []
        self.runs.clear()
        self.ended.clear()
        self.shelved.clear()
        self.titles.clear()
