"""Messages by id, kept in memory or in a file. Knows no room. Private; `chatkit` exports the public names."""
