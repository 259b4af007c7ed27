"""Starts the command line: `python -m agent`, or the script `gatehouse-agent`."""

from agent.cli import main

if __name__ == "__main__":
    main()
