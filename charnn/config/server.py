"""Settings of `charnn serve`: the address and the limits of a request."""

from __future__ import annotations

from dataclasses import dataclass

from charnn.config.settings import Config, number, setting, whole

LIMITS = "Limits"  # a section of the help


@dataclass(frozen=True)
class ServerConfig(Config):
    """Settings of the server: its address, and the limits of a request."""

    host: str = setting(
        "127.0.0.1", "Address to listen on; one that other machines reach needs --api-key."
    )
    port: int = whole(8000, 0, 65535, "Port to listen on; 0: a free one.")
    max_requests: int = whole(
        64, 1, 10_000, "Requests at once; the next one gets status 429.", section=LIMITS
    )
    max_tokens: int = whole(
        32_768, 1, 2**24, "Tokens of a request: prompts and new texts together.", section=LIMITS
    )
    timeout: float = number(
        300.0, 1e-6, 1e6, "Seconds that a request may take.", metavar="SECONDS", section=LIMITS
    )
