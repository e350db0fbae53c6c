"""Evaluate models: ``python evaluate.py runs/simcse --suite sts``.

The same as ``mcse evaluate``; ``evaluate.py --help`` says what it takes.
"""

from __future__ import annotations

import sys

from mcse.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
