"""Write the chat of a room to a file, with the time, until the room ends.

python log_room.py FILE [PORT]
"""

import sys
from datetime import datetime

from chatkit import Client


def main(path: str, port: int) -> None:
    with Client(port=port) as client, open(path, "a", encoding="utf-8") as log:
        for event in client:
            print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {event}", file=log, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 12345)
