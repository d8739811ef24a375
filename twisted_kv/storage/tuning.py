"""RocksDB's settings, each with its reason."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rocksdict import BlockBasedIndexType, BlockBasedOptions, Cache, DBRecoveryMode, Options

MIB = 1024 * 1024
MEMTABLE_BYTES = 32 * MIB
"""All column families' memtables together. It bounds the log that a start has to read, too: about as many bytes."""
CACHE_BYTES = 32 * MIB
"""Uncompressed blocks of all column families. The kernel's page cache stands behind it."""

_UNSETTABLE = """\
[Version]
  rocksdb_version=9.0.0
  options_file_version=1.1
[DBOptions]
  track_and_verify_wals_in_manifest=true
[CFOptions "default"]
[TableOptions/BlockBasedTable "default"]
"""
"""What rocksdict has no setter for, as an options file of RocksDB.

While a memtable is written out there are two logs. Should the older one have lost its end, RocksDB would read on in the
newer one and say nothing, and the sequence number reached would hide the gap. So the manifest notes how long a log was
when it was left, and a shorter or a missing one stops the start.
"""


def folder_options(scratch: Path) -> Options:
    """Give the settings of a whole folder.

    :param scratch: a folder in which a file may be written for a moment.
    :raises OSError: if it cannot.
    """
    with TemporaryDirectory(prefix="options-", dir=scratch) as place:
        Path(place, "OPTIONS-000001").write_text(_UNSETTABLE)
        Path(place, "CURRENT").write_text("MANIFEST-000001\n")
        Path(place, "rocksdict-config.json").write_text('{"raw_mode": true}')
        options, _ = Options.load_latest(place)
    return _set(options)


def family_options(*names: str) -> dict[str, Options]:
    """Give the settings of column families that share a cache."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_bloom_filter(10, False)
    # In parts of 4 KiB. In one piece those of a large table are larger than a shard of the cache can hold (half a
    # megabyte), and would be read from the file for each look-up: at a million records that took six times as long.
    table.set_cache_index_and_filter_blocks(True)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_pin_top_level_index_and_filter(True)
    table.set_format_version(5)
    families = {}
    for name in names:
        families[name] = _set(Options(raw_mode=True))
        families[name].set_block_based_table_factory(table)
    return families


def _set(options: Options) -> Options:
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    # Anything but a torn end of the log stops the start: by default RocksDB would forget what follows a flipped byte
    # and say nothing.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    options.set_atomic_flush(True)
    options.set_db_write_buffer_size(MEMTABLE_BYTES)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_total_wal_size(2 * MEMTABLE_BYTES)
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 * MIB)
    options.set_stats_dump_period_sec(0)
    return options
