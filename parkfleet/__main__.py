"""`python -m parkfleet` is the command `parkfleet`."""

from parkfleet.cli import main

if __name__ == "__main__":
    main()
