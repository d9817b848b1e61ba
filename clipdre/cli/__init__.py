"""The command line: parse, call one stage, print. Results go to stdout, all else to stderr."""
