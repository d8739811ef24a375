"""What a terminal obeys in the place of showing it: text from elsewhere holds none of it, or has it written out."""

OBEYED = r"\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Control characters, and what turns the direction of writing around; to stand in a regular expression's brackets."""

HALVES = r"\ud800-\udfff"
"""Halves of characters, which no encoding can write."""
