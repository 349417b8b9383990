"""Messages by id, in memory or in an SQLite file. It knows no room. Private; `chatkit` exports the public names."""
