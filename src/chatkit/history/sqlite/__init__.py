"""A history in an SQLite file. Private; `chatkit` exports SqliteHistory."""
