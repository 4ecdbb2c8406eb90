"""`python -m teenytinyllama.cli`, where the command `ttl` is not on the path."""

from teenytinyllama.cli import main

main()
