"""The fast path: messages, confirms and acknowledgements pass between socket and transport without the driver."""
