"""``/openapi.json``: the calls of a door as a document (OpenAPI 3.1), made of what decodes and checks them.

``described`` is what a route says of itself, ``shapes`` makes schemas of types, ``problems`` lists what goes wrong,
``document`` puts them together, ``route`` serves it.
"""
