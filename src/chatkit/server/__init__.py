"""The sockets and threads of a room. Private; `chatkit` exports the public names."""
