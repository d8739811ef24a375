"""Redis commands as Hypothesis draws them: mostly right, now and then wrong in ways that Redis has a sentence for."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Words = list[bytes]

KEYS = st.sampled_from([b"a", b"b", b"c", b"k1", b"k2", b"\0z", b"a*", b"[x]"])
INTEGERS = st.sampled_from(
    b"0,1,-1,3,10,9223372036854775807,-9223372036854775808,9223372036854775808,01,+1, 1,1.5,,abc,-0".split(b",")
)
NUMBERS = st.sampled_from(
    b"0.1,-0.1,3.0e3,1e-5,.5,5.,inf,-inf,nan,0x10,0x1p-3,1e4900,1e5000,1e-5000,1.7e308,123456789012345678901234567890,"
    b"100000000000000000000,00, 5,5 ".split(b",")
)
VALUES = st.one_of(
    st.sampled_from([b"", b"v", b"hello world", b"x" * 50, b"\r\n", b"$3\r\nabc\r\n"]),
    INTEGERS,
    NUMBERS,
    st.binary(max_size=60),
)
FAR = {
    b"EX": [b"1000", b"2000"],
    b"PX": [b"1000000", b"2000000"],
    b"EXAT": [b"4102444800", b"4102444900"],
    b"PXAT": [b"4102444800000", b"4102444900000"],
}
"""Expiries that do not pass while a test runs."""
WRONG_EXPIRIES = [b"0", b"-1", b"abc", b"9223372036854775807", b"-9223372036854775808"]


def expiry(options: list[bytes]) -> SearchStrategy[Words]:
    def of(option: bytes) -> SearchStrategy[Words]:
        number = st.sampled_from(FAR[option] * 3 + WRONG_EXPIRIES)
        return st.tuples(st.sampled_from([option, option.lower()]), number).map(list)

    return st.sampled_from(options).flatmap(of)


ANY_EXPIRY = expiry(list(FAR))


def words(*parts: bytes | SearchStrategy[bytes] | SearchStrategy[Words]) -> SearchStrategy[Words]:
    """Put a command together of words, and of what draws one or several."""

    def flat(drawn: tuple[bytes | Words, ...]) -> Words:
        return [word for part in drawn for word in ([part] if isinstance(part, bytes) else part)]

    return st.tuples(*(st.just(part) if isinstance(part, bytes) else part for part in parts)).map(flat)


def some(one: SearchStrategy[bytes], least: int = 1, most: int = 4) -> SearchStrategy[Words]:
    return st.lists(one, min_size=least, max_size=most)


def joined(parts: SearchStrategy[Words], most: int = 3) -> SearchStrategy[Words]:
    return st.lists(parts, max_size=most).map(lambda drawn: [word for part in drawn for word in part])


SET_OPTION = st.one_of(
    st.sampled_from([[b"NX"], [b"XX"], [b"GET"], [b"KEEPTTL"], [b"nx"], [b"FOO"], [b"PERSIST"]]), ANY_EXPIRY
)
GETEX_OPTION = st.one_of(st.sampled_from([[b"PERSIST"], [b"FOO"], [b"KEEPTTL"]]), ANY_EXPIRY)
EXPIRE_CONDITION = st.sampled_from([[b"NX"], [b"XX"], [b"GT"], [b"LT"], [b"gt"], [b"FOO"]])
PATTERNS = st.one_of(
    st.sampled_from([b"*", b"k?", b"[a-b]", b"[^a]", b"a\\*", b"*1", b"k[12]", b"\\[x\\]", b"k*1*", b"[b-a]", b"[a"]),
    st.text("ak1*?[]^-\\", max_size=6).map(str.encode),
)

_ONE = [b"GET", b"get", b"GETDEL", b"STRLEN", b"INCR", b"DECR", b"PERSIST", b"TYPE", b"TTL", b"PTTL", b"EXPIRETIME"]
COMMANDS: SearchStrategy[Words] = st.one_of(
    words(st.sampled_from([*_ONE, b"PEXPIRETIME"]), KEYS),
    words(b"SET", KEYS, VALUES),
    words(b"SET", KEYS, VALUES, joined(SET_OPTION)),
    words(st.sampled_from([b"SETNX", b"GETSET", b"APPEND", b"append"]), KEYS, VALUES),
    words(b"SETEX", KEYS, st.sampled_from(FAR[b"EX"] + WRONG_EXPIRIES), VALUES),
    words(b"PSETEX", KEYS, st.sampled_from(FAR[b"PX"] + WRONG_EXPIRIES), VALUES),
    words(b"GETEX", KEYS, joined(GETEX_OPTION, 2)),
    words(st.sampled_from([b"MGET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"]), some(KEYS)),
    words(st.sampled_from([b"MSET", b"mset"]), joined(st.tuples(KEYS, VALUES).map(list)), some(KEYS, 0, 1)),
    words(st.sampled_from([b"GETRANGE", b"SUBSTR"]), KEYS, INTEGERS, INTEGERS),
    words(b"SETRANGE", KEYS, st.sampled_from([b"0", b"1", b"5", b"20", b"100", b"-1", b"abc"]), VALUES),
    words(st.sampled_from([b"INCRBY", b"DECRBY"]), KEYS, INTEGERS),
    words(b"INCRBYFLOAT", KEYS, st.one_of(NUMBERS, INTEGERS)),
    *(
        words(name, KEYS, st.sampled_from(FAR[option] * 3 + WRONG_EXPIRIES), joined(EXPIRE_CONDITION, 2))
        for name, option in (
            (b"EXPIRE", b"EX"),
            (b"PEXPIRE", b"PX"),
            (b"EXPIREAT", b"EXAT"),
            (b"PEXPIREAT", b"PXAT"),
        )
    ),
    words(b"KEYS", PATTERNS),
    words(b"OBJECT", st.sampled_from([[b"ENCODING", b"nokey"], [b"FOO", b"a"], [], [b"encoding"]])),
    words(b"ECHO", VALUES),
    words(b"PING", some(VALUES, 0, 2)),
    words(b"SELECT", st.sampled_from([b"0", b"abc", b"-1", b"99999", b"99999999999"])),
    words(
        b"CLIENT",
        st.sampled_from(
            b"SETNAME abc,GETNAME,foo,no-evict on,no-evict x,list foo,list type foo,list type master,list id,"
            b"list id abc,id x,list id 9999999".split(b",")
        ).map(bytes.split),
    ),
    words(b"CLIENT", b"SETNAME", st.sampled_from([b"a b", b"", b"\xff"])),
    words(
        b"HELLO",
        st.sampled_from([[b"4"], [b"x"], [b"2", b"FOO"], [b"3", b"SETNAME", b"a b"], [b"2", b"AUTH", b"x"]])
        | st.just([b"2", b"AUTH", b"x", b"y"]),
    ),
    words(b"AUTH", some(VALUES, 0, 3)),
    words(
        b"SCAN",
        st.sampled_from(
            [[b"abc"], [b"0", b"COUNT", b"0"], [b"0", b"FOO", b"1"], [b"0", b"COUNT"], [b"0", b"COUNT", b"x"]]
        )
        | st.just([b"18446744073709551616"]),
    ),
    words(st.sampled_from([b"FLUSHALL", b"FLUSHDB"]), st.sampled_from([[b"foo"], [b"ASYNC", b"x"], [b"async"], []])),
    words(st.sampled_from([b"nosuch", b"lpush x", b"\xff\0a", b""]), some(st.binary(max_size=200), 0, 4)),
    words(
        st.sampled_from([b"get", b"SETEX", b"mset", b"hello", b"expire", b"client", b"object", b"config", b"time"]),
        some(st.just(b"x"), 0, 5),
    ).filter(lambda command: command not in ([b"hello"], [b"time"])),
)
"""One command. What tells the time, or a connection's number, is left out."""

PASSWORD = b"0123456789abcdef"

GREETINGS = st.one_of(
    words(b"AUTH", some(st.sampled_from([PASSWORD, PASSWORD, b"default", b"other", b"", b"x" * 300]), 0, 3)),
    st.just([b"AUTH", PASSWORD]),
    st.just([b"AUTH", b"default", PASSWORD]),
    words(
        b"HELLO",
        some(st.sampled_from([b"2", b"3", b"4", b"x"]), 0, 1),
        joined(
            st.sampled_from(
                [
                    [b"AUTH", b"default", PASSWORD],
                    [b"auth", b"default", b"wrong"],
                    [b"AUTH", b"other", PASSWORD],
                    [b"AUTH", PASSWORD],
                    [b"SETNAME", b"abc"],
                    [b"SETNAME", b"a b"],
                    [b"FOO"],
                ]
            )
        ),
    ).filter(lambda command: len(command) <= 10),
    st.just([b"RESET"]),
    words(st.sampled_from([b"SELECT", b"ECHO", b"ping", b"client", b"nosuch"]), some(st.just(b"0"), 0, 2)),
    words(st.sampled_from([b"GET", b"SET", b"INCR", b"HELLO", b"FLUSHALL"]), some(st.sampled_from([b"a", b"1"]), 0, 3)),
    st.just([b"CLIENT", b"GETNAME"]),
)
"""A command of a client that has shown the password, or has not."""
