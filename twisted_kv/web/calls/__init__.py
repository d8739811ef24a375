"""What each door's calls are: the shapes of what they read and answer, and what ``/openapi.json`` says of them.

A room here belongs to the door of the same name; the requests' shapes are those that decode them.
"""
