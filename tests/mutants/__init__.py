"""Small changes of the source, each of which must turn a test red: see mutants.toml."""
