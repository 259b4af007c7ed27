"""What a compilation may use of its machine: whoever runs it says when enough is enough.

Each part of a compilation has limits of its own, which depend on its input alone. A budget is for their sum:
a hundred thousand workloads within every limit still take minutes and gigabytes. It is asked before each
workload. Reading clocks and memory is the rim's business; here nothing is measured.
"""

from collections.abc import Callable

Budget = Callable[[str], None]
"""Called with the key of the workload that is next; raises ResourceExhausted when it is spent."""


def unbounded(_workload: str) -> None:
    """A budget that is never spent."""
