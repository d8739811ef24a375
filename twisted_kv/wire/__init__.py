"""Bytes to messages and back: what proxies and nodes say to each other.

Every message begins with a format number. Unknown trailing fields are skipped, so that a cluster may be upgraded one
node at a time; what is stored travels as bytes that nobody on the way decodes.
"""
