"""Messages by id, kept in memory or in an SQLite file. It knows no room. Private; `chatkit` exports the public names."""
