"""`chat-server`"""
