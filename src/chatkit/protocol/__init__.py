"""Bytes to lines to events, and back. No sockets, no threads. Private."""
