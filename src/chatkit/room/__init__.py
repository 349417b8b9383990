"""Members and commands; the order of messages and their path to the history and the workers. No sockets. Private."""
