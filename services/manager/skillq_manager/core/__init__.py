"""The manager's decisions: pure functions of what happened, when, and of numbers drawn by others."""
