"""The only reader of the command line and the environment.

Every setting is a flag (`--queue-capacity 8`) and a variable (`IMAGEGEN_QUEUE_CAPACITY=8`); the flag wins, and an
empty variable counts as unset. The groups are what the rooms below get to see of it; all are frozen.

`python -m imagegen_server.settings` prints the table of the README.
"""

__all__ = [
    "GROUPS",
    "PREFIX",
    "ApiSettings",
    "AuthSettings",
    "LimitSettings",
    "ModelSettings",
    "RecallSettings",
    "Settings",
    "StoreSettings",
    "TelemetrySettings",
    "WorkSettings",
    "bracketed",
    "parse",
    "parse_bytes",
    "parse_seconds",
    "settings_table_markdown",
    "unknown_variables",
]

from imagegen_server.settings.auth import AuthSettings
from imagegen_server.settings.limits import LimitSettings
from imagegen_server.settings.model import ModelSettings
from imagegen_server.settings.names import PREFIX
from imagegen_server.settings.parsing import parse, unknown_variables
from imagegen_server.settings.serving import ApiSettings
from imagegen_server.settings.settings import GROUPS, Settings
from imagegen_server.settings.store import StoreSettings
from imagegen_server.settings.table import settings_table_markdown
from imagegen_server.settings.telemetry import TelemetrySettings
from imagegen_server.settings.values import bracketed, parse_bytes, parse_seconds
from imagegen_server.settings.work import RecallSettings, WorkSettings
