"""What RocksDB says of itself (its DB properties, of all column families together)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rocksdict import Rdict

SUMS = {
    "memtable_bytes": "rocksdb.cur-size-all-mem-tables",
    "table_bytes": "rocksdb.total-sst-files-size",
    "level0_tables": "rocksdb.num-files-at-level0",
    "pending_compaction_bytes": "rocksdb.estimate-pending-compaction-bytes",
    "table_reader_bytes": "rocksdb.estimate-table-readers-mem",
}
"""Figures that each column family has, which are added up."""

WHOLE = {
    "cache_bytes": "rocksdb.block-cache-usage",
    "running_compactions": "rocksdb.num-running-compactions",
    "running_flushes": "rocksdb.num-running-flushes",
    "writes_stopped": "rocksdb.is-write-stopped",
    "delayed_write_bytes_per_second": "rocksdb.actual-delayed-write-rate",
    "background_errors": "rocksdb.background-errors",
}
"""Figures that all column families share."""


MEANING = {
    "memtable_bytes": "Changes that are not yet in a table",
    "table_bytes": "Bytes of all table files",
    "level0_tables": "Tables that wait to be merged into the others",
    "pending_compaction_bytes": "Bytes that compactions have yet to rewrite, as RocksDB estimates it",
    "table_reader_bytes": "Memory of indexes and filters outside of the cache",
    "cache_bytes": "Memory of the block cache",
    "running_compactions": "Compactions under way",
    "running_flushes": "Memtables that are being written out",
    "writes_stopped": "Whether RocksDB takes no write, since its compactions are behind",
    "delayed_write_bytes_per_second": "To how many bytes a second writes are slowed down; 0 if they are not",
    "background_errors": "Errors of compactions and flushes",
}


def figures(families: Iterable[Rdict]) -> Mapping[str, float]:
    """Give all of them."""
    families = list(families)
    found = {name: [family.property_int_value(prop) for family in families] for name, prop in SUMS.items()}
    found |= {name: [families[0].property_int_value(prop)] for name, prop in WHOLE.items()}
    return {name: float(sum(value or 0 for value in values)) for name, values in found.items()}
