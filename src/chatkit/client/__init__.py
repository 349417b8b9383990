"""Both clients, on one protocol core. Private; `chatkit` exports the public names."""
