"""A bot that tells the time to whoever says `!time`, under its own name, and the answer only to whoever asked.

python time_bot.py [PORT]
"""

import sys
from datetime import datetime

from chatkit import Client, Message


def main(port: int) -> None:
    with Client(port=port, name="clock") as client:
        for event in client:
            match event:
                case Message(sender=sender, text="!time"):
                    client.tell(sender, f"it is {datetime.now():%H:%M}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 12345)
