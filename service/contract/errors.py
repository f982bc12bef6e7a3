"""Errors of the bundle contract. Messages say where, what was expected and found, and the fix."""


class ContractError(Exception):
    """Base of the errors of `service.contract`."""

    code = "contract"


class BundleError(ContractError):
    """A bundle folder does not contain what its manifest says."""

    code = "bundle-invalid"


class GoldenMismatchError(BundleError):
    """The graph does not reproduce its golden run."""

    code = "golden-mismatch"


class TextError(ContractError):
    """A chunk of text that cannot be tokenised."""

    code = "text-invalid"


class TokenizerError(ContractError):
    """The tokenizer fails on a piece of text: a fault of the bundle, not of the client."""

    code = "tokenizer-failed"
