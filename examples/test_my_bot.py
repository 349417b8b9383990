"""Tests with chatkit's pytest fixtures: `pytest test_my_bot.py`. No sleep, no port, nothing to set up."""

import threading

from chatkit import Client
from chatkit.testing import ChatRoom


def answer_ping(client: Client) -> None:
    """The bot under test."""
    for event in client:
        if event.text == "ping":
            client.say("pong")


def test_members_hear_each_other(chat_room: ChatRoom) -> None:
    ann, bob = chat_room.join(2)
    ann.say("Hi!")
    bob.expect("Hi!", sender=ann)
    ann.expect_nothing()


def test_the_bot_answers_ping_alone(chat_room: ChatRoom) -> None:
    ann, bot = chat_room.join(2)
    thread = threading.Thread(target=answer_ping, args=(bot,))
    thread.start()
    ann.say("hello")
    ann.say("ping")
    ann.expect("pong", sender=bot)
    chat_room.server.kick(bot.name, "the test is over")
    thread.join()
