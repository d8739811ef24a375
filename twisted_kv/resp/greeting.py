"""What a client says about its connection: HELLO, AUTH, CLIENT, SELECT, and whether anybody is there."""

from __future__ import annotations

from ..errors import BadParameter
from ..quorum import parse_level
from ..tokens import Access, Ticket
from .arguments import SYNTAX, number_of
from .numbers import integer_of
from .plans import Outcome, Refused
from .replies import EMPTY, OK, PONG, bulk, integer, mapping, null, simple, verbatim
from .session import Session
from .table import TABLE, Command

SPOKEN = b"7.0.15"
"""The version of Redis whose commands and texts are spoken here: clients look at it to know what they may use."""
NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration "
    "is correct?"
)
WRONG_PASSWORD = "WRONGPASS invalid username-password pair or user is disabled."
HELLO_FIRST = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time"
)
DEFAULT_USER = b"default"
TOLD_MAX = 128
"""How much is kept of what a client says of its library."""
INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


def set_name(session: Session, name: bytes) -> None:
    """:raises Refused: if a name would not fit into a line of CLIENT LIST."""
    if any(not 0x21 <= byte <= 0x7E for byte in name):
        raise Refused("ERR Client names cannot contain spaces, newlines or special characters.")
    session.name = name


def authenticate(session: Session, user: bytes, password: bytes) -> None:
    """Take a token for a password; where there are no tokens, any is right.

    :raises Refused: unless it is the one user that there is, with a token that holds.
    """
    ticket = Ticket(session.server.keyring, password)
    if user != DEFAULT_USER or ticket.access is None:
        raise Refused(WRONG_PASSWORD)
    session.ticket = ticket


def permit(session: Session, command: Command) -> None:
    """:raises Refused: unless the token that was shown allows a command."""
    access = session.ticket.access
    if access is None:
        if "no_auth" not in command.flags:
            raise Refused("NOAUTH Authentication required.")
    elif access is Access.READ_ONLY and "write" in command.flags:
        raise Refused(f"NOPERM this user has no permissions to run the '{command.name}' command")


@TABLE.add("hello", -1, "noscript loading stale fast no_auth")
def hello(session: Session, words: list[bytes]) -> Outcome:
    """Begin: choose the protocol, and say who is there."""
    protocol = session.protocol
    if len(words) > 1:
        asked = integer_of(words[1])
        if asked is None:
            raise Refused("ERR Protocol version is not an integer or out of range")
        if asked not in (2, 3):
            raise Refused("NOPROTO unsupported protocol version")
        protocol = asked
    at = 2
    while at < len(words):
        option, left = words[at].upper(), len(words) - at - 1
        if option == b"AUTH" and left >= 2:
            authenticate(session, words[at + 1], words[at + 2])
            at += 3
        elif option == b"SETNAME" and left:
            set_name(session, words[at + 1])
            at += 2
        else:
            raise Refused(b"ERR Syntax error in HELLO option '%b'" % words[at])
    if session.ticket.access is None:
        raise Refused(HELLO_FIRST)
    session.protocol = protocol
    return mapping(
        protocol,
        [
            (bulk(b"server"), bulk(b"redis")),
            (bulk(b"version"), bulk(SPOKEN)),
            (bulk(b"proto"), integer(protocol)),
            (bulk(b"id"), integer(session.id)),
            (bulk(b"mode"), bulk(b"standalone")),
            (bulk(b"role"), bulk(b"master")),
            (bulk(b"modules"), EMPTY),
        ],
    )


@TABLE.add("auth", -2, "noscript loading stale fast no_auth")
def auth(session: Session, words: list[bytes]) -> Outcome:
    """Show a password."""
    if len(words) > 3:
        raise Refused(SYNTAX)
    if len(words) == 2 and session.server.keyring.tokens is None:
        raise Refused(NO_PASSWORD)
    user, password = words[1:] if len(words) == 3 else (DEFAULT_USER, words[1])
    authenticate(session, user, password)
    return OK


@TABLE.add("ping", -1, "fast")
def ping(session: Session, words: list[bytes]) -> Outcome:
    """Ask whether anybody is there."""
    if len(words) > 2:
        raise Refused("ERR wrong number of arguments for 'ping' command")
    return bulk(words[1]) if len(words) == 2 else PONG


@TABLE.add("echo", 2, "fast")
def echo(session: Session, words: list[bytes]) -> Outcome:
    """Say the same."""
    return bulk(words[1])


@TABLE.add("quit", -1, "noscript loading stale fast no_auth")
def quit_(session: Session, words: list[bytes]) -> Outcome:
    """End the connection."""
    session.closing = True
    return OK


@TABLE.add("reset", 1, "noscript loading stale fast no_auth")
def reset(session: Session, words: list[bytes]) -> Outcome:
    """Set everything about the connection back."""
    session.reset()
    return b"+RESET\r\n"


@TABLE.add("select", 2, "loading stale fast")
def select(session: Session, words: list[bytes]) -> Outcome:
    """Choose a database: there is one, 0."""
    number = number_of(words[1])
    if not INT_MIN <= number <= INT_MAX:
        raise Refused(f"ERR value is out of range, value must between {INT_MIN} and {INT_MAX}")
    if number:
        raise Refused("ERR DB index is out of range")
    return OK


@TABLE.add("client|id", 2, "noscript loading stale")
def client_id(session: Session, words: list[bytes]) -> Outcome:
    """Give the connection's number."""
    return integer(session.id)


@TABLE.add("client|getname", 2, "noscript loading stale")
def client_getname(session: Session, words: list[bytes]) -> Outcome:
    """Give the connection's name."""
    return bulk(session.name) if session.name else null(session.protocol)


@TABLE.add("client|setname", 3, "noscript loading stale")
def client_setname(session: Session, words: list[bytes]) -> Outcome:
    """Name the connection."""
    set_name(session, words[2])
    return OK


@TABLE.add("client|setinfo", 4, "noscript loading stale")
def client_setinfo(session: Session, words: list[bytes]) -> Outcome:
    """Say which library the client is of."""
    what = words[2].upper()
    if what not in (b"LIB-NAME", b"LIB-VER"):
        raise Refused(b"ERR Unrecognized option '%b'" % words[2])
    attribute = what.decode().lower()
    if any(not 0x21 <= byte <= 0x7E for byte in words[3]):
        raise Refused(f"ERR {attribute} cannot contain spaces, newlines or special characters.")
    session.told[attribute] = words[3][:TOLD_MAX]
    return OK


def on_or_off(session: Session, words: list[bytes]) -> Outcome:
    """Is taken, and changes nothing: no key and no client is ever evicted here."""
    if words[2].upper() not in (b"ON", b"OFF"):
        raise Refused(SYNTAX)
    return OK


TABLE.add("client|no-evict", 3, "noscript loading stale")(on_or_off)
TABLE.add("client|no-touch", 3, "noscript loading stale")(on_or_off)


@TABLE.add("client|info", 2, "noscript loading stale")
def client_info(session: Session, words: list[bytes]) -> Outcome:
    """Tell about this connection."""
    return verbatim(session.protocol, described(session))


@TABLE.add("client|list", -2, "noscript loading stale")
def client_list(session: Session, words: list[bytes]) -> Outcome:
    """Tell about all connections of this process, or those of a type, or of some numbers."""
    sessions = session.server.sessions()
    option, rest = words[2].upper() if len(words) > 2 else b"", words[3:]
    if option == b"TYPE" and len(rest) == 1:
        kind = rest[0].lower()
        if kind not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
            raise Refused(b"ERR Unknown client type '%b'" % rest[0])
        sessions = sessions if kind == b"normal" else []
    elif option == b"ID" and rest:
        wanted = {integer_of(word) for word in rest}
        if None in wanted:
            raise Refused("ERR Invalid client ID")
        sessions = [one for one in sessions if one.id in wanted]
    elif len(words) > 2:
        raise Refused(SYNTAX)
    return verbatim(session.protocol, b"".join(map(described, sessions)))


def described(session: Session) -> bytes:
    """Describe a connection as Redis does, with those of its fields that mean something here."""
    age_s = (session.server.now_ms() - session.since_ms) // 1000
    library = "".join(f" {name}={text.decode()}" for name, text in sorted(session.told.items()))
    line = (
        f"id={session.id} addr={session.address} laddr={session.local} name={session.name.decode()} age={age_s} flags=N"
        f" db=0 user=default resp={session.protocol} level={session.level.value}{library}\n"
    )
    return line.encode()


@TABLE.add("kv.level", -1, "fast")
def kv_level(session: Session, words: list[bytes]) -> Outcome:
    """Set this connection's level of consistency: one, strong or all; or give it."""
    if len(words) > 2:
        raise Refused("ERR wrong number of arguments for 'kv.level' command")
    if len(words) == 1:
        return simple(session.level.value)
    try:
        session.level = parse_level(words[1].decode("ascii", "replace").lower())
    except BadParameter as error:
        raise Refused(f"ERR {error.detail}: {error.hint}") from None
    return OK
