"""Numbers as Redis reads and writes them: 64-bit integers, and the long doubles of x86.

INCRBYFLOAT counts in the 80-bit format of the x87 (64 bits of mantissa), and prints 17 digits behind the point. To give
the same digits, sums are made with fractions and rounded to 64 bits, half to even (IEEE 754, section 4.3.1).
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from math import inf

INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1
MANTISSA_BITS = 64
EXPONENT_MAX = 16_384
"""Of the largest long double, which is below 2^16384."""
EXPONENT_MIN = -16_445
"""Of the smallest one that is not 0."""
FLOAT_CHARS_MAX = 5 * 1024
DIGITS_BEHIND = 17

_integer = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch
_decimal = re.compile(rb"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?[0-9]{1,9}))?").fullmatch
_hexadecimal = re.compile(
    rb"([+-]?)0[xX](?:([0-9a-fA-F]+)(?:\.([0-9a-fA-F]*))?|\.([0-9a-fA-F]+))(?:[pP]([+-]?[0-9]{1,9}))?"
).fullmatch
_infinite = re.compile(rb"([+-]?)inf(?:inity)?", re.IGNORECASE).fullmatch

Real = Fraction | float
"""A finite number, or one of the infinities."""


def integer_of(text: bytes) -> int | None:
    """Read a 64-bit integer, as Redis's string2ll does: no sign but a minus, no zeros before it, no spaces."""
    if not _integer(text):
        return None
    number = int(text)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else None


def real_of(text: bytes) -> Real | None:
    """Read a long double, as strtold(3) does, all of the text; None where Redis refuses it."""
    if not 0 < len(text) < FLOAT_CHARS_MAX:
        return None
    if found := _infinite(text):
        return -inf if found[1] == b"-" else inf
    found = _decimal(text)
    base, step = 10, 10
    if found is None:
        found, base, step = _hexadecimal(text), 16, 2
    if found is None:
        return None
    sign, whole, behind, only_behind, exponent = found.groups(b"")
    behind = behind or only_behind
    power = int(exponent or b"0")
    if abs(power) > 2 * EXPONENT_MAX:
        # Far out of range, unless it is zero; the exact number would take megabytes.
        return None if (whole + behind).strip(b"0") else Fraction(0)
    digits = (whole + behind or b"0").decode()
    number = int(digits, 16) if base == 16 else int(Decimal(digits))
    exact = Fraction(number) / base ** len(behind) * Fraction(step) ** power
    result = rounded(-exact if sign == b"-" else exact)
    # Both are ERANGE to strtold: too large, and so small that nothing is left.
    return None if isinstance(result, float) or (exact and not result) else result


def rounded(exact: Fraction) -> Real:
    """Round to a long double; to an infinity where it is too large."""
    if not exact:
        return exact
    # Bits before the point, by which the unit of the last place is known.
    bits = exact.numerator.bit_length() - exact.denominator.bit_length()
    if abs(exact) >= Fraction(2) ** bits:
        bits += 1
    unit = Fraction(2) ** max(bits - MANTISSA_BITS, EXPONENT_MIN)
    number = round(exact / unit) * unit  # round() of a fraction is half to even
    if abs(number) >= Fraction(2) ** EXPONENT_MAX:
        return inf if number > 0 else -inf
    return number


def added(one: Real, other: Real) -> Fraction | None:
    """Add two long doubles; None if what comes out is infinite, or no number."""
    if isinstance(one, float) or isinstance(other, float):
        return None
    total = rounded(one + other)
    return None if isinstance(total, float) else total


def printed(number: Fraction) -> bytes:
    """Print a long double as Redis does for people: 17 digits behind the point, and none of the zeros at the end."""
    scaled = round(number * 10**DIGITS_BEHIND)
    # Python refuses to print integers of so many digits by itself; decimals know no such limit.
    sign, digits = "-" if scaled < 0 else "", f"{Decimal(abs(scaled)):f}".rjust(DIGITS_BEHIND + 1, "0")
    text = f"{digits[:-DIGITS_BEHIND]}.{digits[-DIGITS_BEHIND:]}".rstrip("0").rstrip(".")
    return ("0" if text == "0" else sign + text).encode()
