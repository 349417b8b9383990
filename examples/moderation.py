"""A room whose handler keeps bad words out, tells their sender, and the third time shows the door.

python moderation.py [PORT]
"""

import sys
from collections import Counter
from contextlib import suppress

from chatkit import Member, Message, Server

BAD_WORDS = {"darn", "heck"}


class Moderation:
    server: Server

    def __init__(self) -> None:
        self.warnings = Counter[str]()  # hooks are called one at a time: no lock

    def on_message(self, message: Message) -> Message | None:
        if not BAD_WORDS.intersection(message.text.lower().split()):
            return message
        self.warnings[message.sender] += 1
        if self.warnings[message.sender] < 3:
            self.server.tell(message.sender, "not said: mind your words")
        else:
            self.server.kick(message.sender, "three times is enough")
        return None

    def on_rename(self, member: Member, old_name: str) -> None:
        self.warnings[member.name] = self.warnings.pop(old_name, 0)

    def on_leave(self, member: Member, reason: str) -> None:
        del self.warnings[member.name]


if __name__ == "__main__":
    moderation = Moderation()
    moderation.server = Server(port=int(sys.argv[1]) if sys.argv[1:] else 12345, handler=moderation)
    with suppress(KeyboardInterrupt):
        moderation.server.serve_forever()
