"""Members, commands, the order of what is said, and its way to the history and the workers. No sockets. Private."""
