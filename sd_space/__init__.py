"""A Gradio Space for Stable Diffusion v1-4."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - everything else here is a syntax error to such a Python
    found = ".".join(map(str, sys.version_info[:2]))
    sys.stderr.write("This program needs Python 3.11 or newer, not " + found + "; start it with one.\n")
    sys.exit(2)
