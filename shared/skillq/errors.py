"""The errors of skillq, split by what the caller should do.

SkillqError
├── UsageError            bad input: tell the user, exit 2
│   └── MalformedMessage  a message nobody can read: park it
├── Unreachable           the broker or the manager is not there, or does not let us in: exit 3
└── TransportError        the broker did not confirm: send it again
    ├── Unroutable        nobody has a queue for that key: the message was returned
    ├── QueueNotFound     the queue is not declared (yet)
    └── QueueInUse        somebody else consumes it exclusively
"""


class SkillqError(Exception):
    """Root of all errors that skillq raises."""


class UsageError(SkillqError):
    """Raised when the input is wrong; the message names the value and the remedy."""


class MalformedMessage(UsageError):
    """Raised when a message body cannot be read: not JSON, wrong fields, unknown version, too large."""


class Unreachable(SkillqError):
    """Raised when a server cannot be reached or refuses the credentials."""


class TransportError(SkillqError):
    """Raised when the broker did not confirm an operation; its fate is unknown, repeat it."""


class UnroutableMessage(TransportError):
    """Raised when a message that was published matched no queue."""


class QueueNotFound(TransportError):
    """Raised when a queue to consume from does not exist."""


class QueueInUse(TransportError):
    """Raised when another consumer holds the queue exclusively."""
