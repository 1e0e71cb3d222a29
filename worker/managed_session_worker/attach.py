"""Run `supervisorctl.py` under its old name, which operators of version 0.1.0 call.

A sandbox keeps this package, so an operator that is rolled back may find it. Remove this file after 0.2.
"""

# ruff: noqa: PTH100, PTH120

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    from managed_session_worker.supervisorctl import main

    sys.exit(main(sys.argv[1:]))
