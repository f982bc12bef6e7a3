"""Fixed bounds of one request. Read as `limits.MAX_ROWS`, so that a test can replace one."""

MAX_ROWS = 100_000
MAX_INSTANCES = 1024
MAX_TEXT_CHARS = 100_000
MAX_TOKENS = 2048
"""Characters that one request may generate."""
MAX_REPLY_BYTES = 8 * 2**20
"""Outputs of one reply."""

MAX_REPLAY = 64
MAX_CHECKPOINTS = 64
MAX_KEEP_OBSERVATIONS = 4096
"""The largest values that a session can be opened with; its history holds 1 MiB in any case."""
