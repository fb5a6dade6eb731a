"""Where results are kept: image files named after their content, with their parameters beside them.

Keeper       puts a generation's images into the store and says where they are, off everybody's way
  Workers    run what may hang; whoever waits is told in time
  ImageStore names, verifies and limits
    Files    a directory or a bucket: whole files or none
Sweeper      removes what is too old or too much, in the background
images_app   the images over HTTP
"""

__all__ = [
    "Files",
    "Held",
    "ImageStore",
    "Keeper",
    "KeeperSettings",
    "Limits",
    "ReadOutcome",
    "StoreObserver",
    "Sweeper",
    "Workers",
    "images_app",
    "open_files",
]

from imagegen_server.output.store.http import images_app
from imagegen_server.output.store.keeper import Keeper, KeeperSettings
from imagegen_server.output.store.observer import ReadOutcome, StoreObserver
from imagegen_server.output.store.opening import Files, open_files
from imagegen_server.output.store.retention import Held, Limits
from imagegen_server.output.store.store import ImageStore
from imagegen_server.output.store.sweeper import Sweeper
from imagegen_server.output.store.workers import Workers
