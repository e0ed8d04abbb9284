"""``python -m ditcnn``."""

import sys

from ditcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
