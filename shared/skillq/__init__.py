"""The code that all skillq processes share: messages, topology, transports and the client."""
