"""The command `chat-client`."""
