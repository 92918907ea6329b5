"""What every skillq process shares: messages, topology, transports and the client."""
