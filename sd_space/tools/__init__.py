"""Command-line tools, run with ``python -m``; nothing imports them."""
