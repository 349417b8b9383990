"""A room whose handler keeps bad words out, tells their sender, and the third time shows the door.

python moderation.py [PORT]
"""

import sys
from collections import Counter
from contextlib import suppress

from chatkit import Handler, Member, Message, Private, Refused, Server

BAD_WORDS = {"darn", "heck"}


class Moderation(Handler):
    server: Server

    def __init__(self) -> None:
        self.warnings = Counter[int]()  # by the member's id, which stays; hooks are called one at a time: no lock

    def on_message(self, message: Message, member: Member) -> Message:
        self.check(message.text, member)
        return message

    def on_private(self, message: Private, recipient: Member, member: Member) -> Private:
        self.check(message.text, member)
        return message

    def on_leave(self, member: Member, reason: str) -> None:
        del self.warnings[member.id]

    def check(self, text: str, member: Member) -> None:
        if BAD_WORDS.intersection(text.lower().split()):
            self.warnings[member.id] += 1
            if self.warnings[member.id] == 3:
                self.server.kick(member.name, "three times is enough")
            raise Refused("mind your words")


if __name__ == "__main__":
    moderation = Moderation()
    moderation.server = Server(port=int(sys.argv[1]) if sys.argv[1:] else 12345, handler=moderation)
    with suppress(KeyboardInterrupt):
        moderation.server.serve_forever()
