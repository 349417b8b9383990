"""A room inside a program: greet newcomers, turn shouting down, count messages.

python room_in_a_program.py [PORT]
"""

import dataclasses
import sys

from chatkit import Member, Message, Server


class Manners:
    """Hooks are called one at a time, so this needs no lock."""

    server: Server
    said = 0

    def on_join(self, member: Member) -> None:
        self.server.broadcast(f"welcome, {member.name}")

    def on_message(self, message: Message) -> Message:
        self.said += 1
        return dataclasses.replace(message, text=message.text.lower()) if message.text.isupper() else message


def main(port: int) -> None:
    manners = Manners()
    manners.server = server = Server(port=port, handler=manners)
    try:
        server.start()
        print("a room on port", server.port, flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print(manners.said, "messages")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 12345)
