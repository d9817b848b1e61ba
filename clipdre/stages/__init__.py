"""Each stage reads what the one before wrote: encode, estimate, select, emit."""
