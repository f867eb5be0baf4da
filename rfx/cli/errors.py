"""What the user can put right, and optional packages that are missing."""

from __future__ import annotations

from importlib import import_module

__all__ = ["UserError", "require"]


class UserError(Exception):
    """One sentence for the user; the command ends with exit code 2 and no traceback."""


def require(module: str, extra: str, purpose: str) -> None:
    """Refuse to go on without a package that an optional extra of rfx installs."""
    try:
        import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package {module}, which is not installed; "
            f'install it with: pip install -e ".[{extra}]"'
        ) from error
