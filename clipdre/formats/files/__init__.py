"""Files on disks and in stores: open, commit, lock."""
