"""Settings of who may call, and how much."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from imagegen_server.settings.group import Group


class AuthSettings(Group):
    """Who may call"""

    api_keys: Path | None = Field(
        None,
        description="File of hashed API keys and tenants' limits, read again when it changes; "
        "`imagegen-server key` makes its lines.",
    )
    jwt_keys: str | None = Field(
        None,
        description="JSON Web Key Set with the keys that sign bearer tokens: a file, read again when it changes, "
        "or an https URL.",
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="What a token's iss must be; needed for tokens.")
    jwt_audience: str | None = Field(None, min_length=1, description="What a token's aud must have; needed for tokens.")
    jwt_algorithms: str = Field("RS256,PS256,ES256,EdDSA", description="What may sign a token: names with commas.")
    jwt_leeway: float = Field(30.0, ge=0, le=300, description="Seconds by which clocks may differ for exp and nbf.")
    jwt_refresh: float = Field(300.0, ge=1, le=86_400, description="Seconds after which a URL is asked for keys again.")
    jwt_tenant_claim: str = Field("sub", min_length=1, description="Claim that names the tenant.")
    jwt_roles_claim: str = Field(
        "roles", min_length=1, description="Claim with the roles: a list, or a text with spaces, as scope."
    )
    tls_client_identity: bool = Field(
        True, description="With --tls-client-ca: the name in a client's certificate is who calls, and its tenant."
    )
    tenant_max_in_flight: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Generations that a tenant may have queued and running; half of --queue-capacity if unset.",
    )
    tenant_steps_per_minute: float | None = Field(
        None,
        ge=1,
        le=1e9,
        description="Denoising steps that a tenant may use, all images together; any number if unset.",
    )
    tenant_burst_steps: float | None = Field(
        None, ge=1, le=1e9, description="Steps that a tenant may use at once after a pause; a minute's if unset."
    )
    auth_policy: str = Field(
        "",
        description="Who may call what, instead of the default: inference=required,reflection=off; "
        "each of inference, info, admin, reflection, health is open, required, role:NAME or off.",
    )
