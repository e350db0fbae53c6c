"""``python -m mcse``: the command line, also where launchers want a module (``accelerate launch -m mcse train``)."""

from __future__ import annotations

import sys

from mcse.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
