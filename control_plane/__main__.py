"""`python -m control_plane` is `gatehouse`."""

from control_plane.cli.root import main

if __name__ == "__main__":
    main()
