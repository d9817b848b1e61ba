"""Files on disks and in object stores: open, commit, lock."""
