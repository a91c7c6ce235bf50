"""The exceptions of derain-engine: one base, few children, named after what the user did.

Every message says what was wrong, with which file, and what to do about it. ``exit_code`` is what the
command line exits with when the exception reaches it.
"""


class DerainError(Exception):
    """Base of every error that derain-engine raises on purpose."""

    exit_code = 1


class CheckpointError(DerainError):
    """A model file could not be recognised, is damaged, or does not fit a known network."""

    exit_code = 2


class BuildError(DerainError):
    """A network could not be exported, lowered or compiled as asked."""

    exit_code = 1


class VerificationError(DerainError):
    """An engine's output is not close enough to its reference."""

    exit_code = 4


class BundleError(DerainError):
    """An engine file is damaged, of an unknown format, or not trusted."""

    exit_code = 2


class BackendUnavailable(DerainError):
    """A backend, a device or an optional dependency that was asked for is not on this machine."""

    exit_code = 3


class InputError(DerainError):
    """An argument or an array handed to derain-engine is not something it can work on."""

    exit_code = 2


class MediaError(DerainError):
    """An image or a video could not be read or written."""

    exit_code = 2
