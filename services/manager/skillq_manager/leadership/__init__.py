"""Leadership: which of several managers decides, and whether its own queues still deliver to it."""
