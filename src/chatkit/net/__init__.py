"""Sockets: options, addresses, wake-ups, TLS. Private."""
