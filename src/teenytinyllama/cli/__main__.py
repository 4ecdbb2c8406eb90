"""`python -m teenytinyllama.cli`, where the command `ttl` is not on the path."""

from teenytinyllama.cli.main import main

if __name__ == "__main__":  # worker processes import this file again
    main()
