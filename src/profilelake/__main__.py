"""`python -m profilelake`: the command line."""

from profilelake.cli import main

if __name__ == "__main__":
    main()
