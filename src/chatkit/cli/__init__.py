"""The commands: parse, call the library, say in one line what went wrong. No rule of the room lives here."""
