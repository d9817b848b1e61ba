"""The command line: parse, call one function, print. Results on stdout, the rest on stderr."""
