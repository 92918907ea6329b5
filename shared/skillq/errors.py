"""The errors of skillq, split by what the caller should do.

SkillqError
├── UsageError            bad input: report it to the user, exit 2
│   └── MalformedMessage  an unreadable message: move it to the dead-letter queue
├── Unreachable           the broker or the manager is not there, or refuses us: exit 3
└── TransportError        the broker did not confirm: repeat the operation
    ├── UnroutableMessage no queue is bound for the key: the broker returned the message
    ├── QueueNotFound     the queue is not declared (yet)
    └── QueueInUse        another consumer has the queue exclusively
"""


class SkillqError(Exception):
    """Root of all errors that skillq raises."""


class UsageError(SkillqError):
    """Raised when the input is wrong; the message names the value and the remedy."""


class MalformedMessage(UsageError):
    """Raised for an unreadable message: not JSON, wrong fields, unknown version, too large."""


class Unreachable(SkillqError):
    """Raised when a server cannot be reached or refuses the credentials."""


class TransportError(SkillqError):
    """Raised when the broker did not confirm an operation; its effect is unknown: repeat it."""


class UnroutableMessage(TransportError):
    """Raised when a message that was published matched no queue."""


class QueueNotFound(TransportError):
    """Raised when a queue to consume from does not exist."""


class QueueInUse(TransportError):
    """Raised when another consumer holds the queue exclusively."""
