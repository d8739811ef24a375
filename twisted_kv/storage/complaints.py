"""What RocksDB's complaints mean: rocksdict raises a plain Exception with RocksDB's sentence for all of them."""

from __future__ import annotations

from twisted_kv.errors import Damaged, DiskBusy, DiskFailed, DiskFull, KvError


def unreadable(error: Exception) -> Damaged:
    return Damaged(f"what is stored cannot be read: {error}")


def unwritten(error: Exception) -> KvError:
    """Tell a failed write's reasons apart."""
    text = str(error)
    if "Write stall" in text:
        return DiskBusy("the disk is behind with what was written before", "try again in a moment")
    if "No space left" in text:
        return DiskFull("there is no room left on the node's disk", "make room, or add a node")
    return DiskFailed(f"the disk has failed: {text}")


def unopened(error: Exception) -> KvError:
    """Tell lost data, which the other owners can give back, from what an operator has to mend."""
    text = str(error)
    # A file that is missing is one that the others name: CURRENT names a manifest, which names tables.
    if text.startswith("Corruption") or "may be corrupted" in text or "No such file or directory" in text:
        return Damaged(f"what is on the disk is not what was written: {text}")
    if "While lock file" in text or "lock hold by current process" in text:
        return DiskFailed("another process has the node's data open", "stop it, or name another --data-dir")
    return DiskFailed(f"the node's data cannot be opened: {text}", "mend what it says, then start the node again")
