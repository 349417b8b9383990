"""The verbs of `AsyncClient`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Literal, overload

from chatkit.client.exchange import Exchange, members_of, message_of
from chatkit.client.verbs import Composer, flooded_error, lost_error
from chatkit.protocol.lines import EXIT

if TYPE_CHECKING:
    from chatkit.client.aio_connection import AsyncConnection
    from chatkit.client.aio_reconnect import AsyncReconnectingConnection
    from chatkit.events import MemberInfo, Message


class AsyncVerbs:
    """The verbs of `AsyncClient`."""

    _composer: Composer
    _connection: AsyncConnection | AsyncReconnectingConnection

    @abstractmethod
    async def send(self, text: str) -> None:
        """Send one line as it is."""

    @overload
    async def say(self, text: str, *, confirm: Literal[False] = False) -> None: ...
    @overload
    async def say(self, text: str, *, confirm: Literal[True]) -> Message: ...
    async def say(self, text: str, *, confirm: bool = False) -> Message | None:
        """Say a text to the room, as `Client.say`."""
        if confirm:
            return message_of(await self._ask(self._composer.say_and_ask(text)))
        for line in self._composer.say(text):
            await self.send(line)
        return None

    async def act(self, text: str) -> None:
        """Describe an action, as `Client.act`."""
        await self.send(self._composer.act(text))

    async def tell(self, name: str, text: str) -> None:
        """Send a private message to one member, as `Client.tell`."""
        await self.send(self._composer.tell(name, text))

    async def rename(self, name: str) -> None:
        """Ask for another name, as `Client.rename`."""
        await self.send(self._composer.rename(name))

    async def members(self) -> list[MemberInfo]:
        """Ask for the members of the room, as `Client.members`."""
        return members_of(await self._ask(self._composer.ask_members()))

    async def leave(self) -> None:
        """Leave the room, as `Client.leave`."""
        await self.send(EXIT)

    async def _ask(self, exchange: Exchange) -> Exchange:
        """Send the line of an exchange, and return it when it is over. Other events stay for `receive`."""
        try:
            async with asyncio.timeout(self._composer.timeout):
                await self._connection.ask(exchange)
                while not exchange.is_settled:
                    if exchange.is_flooded:
                        raise flooded_error()
                    await self._connection.wait_for_change()
        except BaseException:
            exchange.is_abandoned = True
            raise
        if not exchange.is_over:
            raise self._connection.ended.with_traceback(None) if self._connection.ended else lost_error()
        return exchange
