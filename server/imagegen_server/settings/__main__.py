"""`python -m imagegen_server.settings` prints the table of the README."""

from __future__ import annotations

import sys

from imagegen_server.settings.table import settings_table_markdown

if __name__ == "__main__":
    sys.stdout.write(settings_table_markdown())
