"""Two rooms become one: pass on each message of one room to the other, with asyncio.

python bridge.py PORT OTHER_PORT
"""

import asyncio
import sys

from chatkit import Action, AsyncClient, Message


async def pass_on(source: AsyncClient, target: AsyncClient) -> None:
    async for event in source:
        match event:
            case Action(sender=sender, text=text):
                await target.act(f"({sender}) {text}"[:2000])
            case Message(sender=sender, text=text):
                await target.say(f"{sender}: {text}"[:2000])


async def main(port: int, other_port: int) -> None:
    async with AsyncClient(port=port, name="bridge") as one, AsyncClient(port=other_port, name="bridge") as other:
        directions = [asyncio.create_task(pass_on(one, other)), asyncio.create_task(pass_on(other, one))]
        done, others = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in others:
            direction.cancel()
        for direction in done:
            direction.result()  # raises what went wrong


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
