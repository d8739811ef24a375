"""The disk: what one owner keeps. ``engine.py`` is the contract, the other modules keep it."""
