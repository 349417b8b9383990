"""A bot that answers every message that begins with `!echo`.

python echo_bot.py [PORT]
"""

import sys

from chatkit import Client, Message


def main(port: int) -> None:
    with Client(port=port) as client:
        for event in client:
            match event:
                case Message(sender=sender, text=text) if text.startswith("!echo "):
                    client.say(f"{sender} says {text.removeprefix('!echo ')}"[:2000])


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 12345)
