"""``python -m clipdre``."""

from clipdre.cli.main import main

main()
