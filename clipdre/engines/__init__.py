"""Where work runs: in this process, or in a process for each device."""
