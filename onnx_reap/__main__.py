"""Run the command as `python -m onnx_reap`."""

import sys

from onnx_reap.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
