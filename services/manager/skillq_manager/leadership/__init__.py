"""Leadership: which manager decides, and whether its queues still deliver to it."""
