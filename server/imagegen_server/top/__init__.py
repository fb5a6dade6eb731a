"""`imagegen-server top`: a server's metrics in a terminal. Knows `/metrics` only: no engine, no models, no settings.

scrape -> snapshot -> history -> report -> view, page
         one answer   growth     figures   text
"""

__all__ = ["main"]

from imagegen_server.top.command import main
