"""Optional libraries, which the extras of pyproject.toml install."""


def missing_extra(purpose: str, extra: str, error: ImportError) -> ValueError:
    """Return the error to raise where an optional library is not installed: it names the extra that installs it.

    Args:
        purpose: What needs the library: "searching".
        extra: The name of the extra.
        error: The exception of the import.
    """
    return ValueError(f"{purpose} needs packages: pip install 'alexnet[{extra}]' ({error})")
