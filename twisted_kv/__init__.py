"""twisted_kv: a replicated, sharded key-value store made of Twisted daemons.

The map of the rooms; imports go down only (``tests/test_layers.py`` holds it). One verb carries the design: every
movement of data is the same idempotent accept, so that anything may be interrupted, repeated, or run twice at once.

floor 0, the laws: no Twisted, no clock, no randomness, no files
    ``names`` ``errors`` ``limits``     what things are called, what goes wrong, how much is too much
    ``versions`` ``register`` ``floors`` ``digest``   ballots and records; what one key is: the acceptor's rules; what
                                        is left of purged ones
    ``conversation`` ``reading`` ``proposing`` ``writing`` ``conditional`` ``refilling``   what a proxy says to
                                        a key's owners, as state machines
    ``ring`` ``quorum`` ``membership`` ``views`` ``planning`` ``seating``   who owns what; who votes; the state and its
                                        changes; what a change has to copy
    ``liveness`` ``wire`` ``bodies`` ``preconditions`` ``tokens`` ``networks`` ``tracing`` ``timeline`` ``terminals``
                                        who is avoided; bytes to messages and back; JSON, keys and values; If-Match;
                                        who may do what; who may be called; what requests are called, and where their
                                        time goes; what is not shown
floor 1, the disk, what is counted and written down, and what the simulation lets happen
    ``storage`` ``metrics`` ``counted`` ``logs`` ``buggify`` ``tls``
floor 2, one replica, and the way to the others
    ``replica`` ``answering`` ``holding`` ``upkeep`` ``hinting`` ``scrubbing`` ``identity`` ``commit`` ``backups``
    ``merging``                         one owner's data; what the backups of several come to
    ``peers`` ``fasthttp`` ``state`` ``leading`` ``periodic`` ``pulse`` ``slow`` ``accounts`` ``preferring``
    ``throttle`` ``awaiting`` ``deadlines`` ``verifying`` ``together`` ``aside``
floor 3, conversations, one purpose each
    ``operation`` ``chain`` ``sharing`` ``turns`` ``crowd`` ``bundles`` ``coordinator``   a client's operation, and
                                        many that are asked as one
    ``listing`` ``explaining`` ``sweeper``   pages of keys; all that is known of one; what has expired
    ``roster`` ``probing``              membership and epochs; who is there
    ``mover`` ``filling`` ``pulling`` ``settling``   carrying a change of the ring out
    ``courier`` ``mender`` ``purging`` ``saving``   replay of hints; repair; tombstones are forgotten; backups
floor 4, the doors
    ``web`` ``resp``                    HTTP; Redis's protocol
floor 5, assembly
    ``config`` ``options`` ``token_files`` ``pidfile`` ``process`` ``interfaces`` ``notify``
                                        what a daemon is told; what it does with its process, and whom it tells
    ``node`` ``rooms`` ``proxy`` ``workers`` ``children`` ``cluster`` ``embedding``   daemons
beside them, over all the rooms
    ``simulation``                      whole clusters on a simulated clock, network and disk; judges of histories
    ``client``                          clients for Python programs, with a reactor or without
    ``ctl``                             the command ``kvctl``
"""

__version__ = "0.1.0"
