"""The settings as the README shows them."""

from __future__ import annotations

from imagegen_server.settings.names import choices, default, flag, metavar, variable
from imagegen_server.settings.settings import GROUPS


def settings_table_markdown() -> str:
    """Returns every setting as Markdown, one table for each group."""
    parts = []
    for group in GROUPS:
        rows = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
        for name, field in group.model_fields.items():
            shown = f"`{default(field)}`" if default(field) else ""
            values = (
                f" ({metavar(field.annotation).strip('{}').replace(',', ', ')})" if choices(field.annotation) else ""
            )
            rows.append(f"| `{flag(name)}` | `{variable(name)}` | {shown} | {field.description}{values} |")
        parts.append(f"**{group.__doc__}**\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"
