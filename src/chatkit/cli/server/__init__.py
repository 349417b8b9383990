"""The command `chat-server`."""
