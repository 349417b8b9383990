"""The entries of mutants.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of the source that tests must notice; mutants.toml explains the fields."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: list[str]

    def applied_to(self, text: str) -> str:
        """Return the text of the file with the change.

        Raises:
            ValueError: `old` isn't there exactly once.
        """
        if (number := text.count(self.old)) != 1:
            raise ValueError(f"mutant {self.name}: its text is {number} times in {self.file}, not once")
        return text.replace(self.old, self.new)


MUTANTS = [Mutant(**entry) for entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["mutant"]]
