"""`chat-client`"""
