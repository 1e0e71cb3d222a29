"""Chooses words of messages that depend on numbers."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 pod`, `2 pods`. Pass the plural if it is irregular."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"
