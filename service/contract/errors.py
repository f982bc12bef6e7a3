"""Errors of the bundle contract.

Every message says where, what was expected, what was found and how to fix it.
"""


class ContractError(Exception):
    """Base of everything that `service.contract` raises on purpose."""

    code = "contract"


class BundleError(ContractError):
    """A bundle folder does not hold what its manifest says."""

    code = "bundle-invalid"


class GoldenMismatchError(BundleError):
    """The graph does not reproduce the sequence that was recorded with it."""

    code = "golden-mismatch"


class TextError(ContractError):
    """A chunk of text that cannot be tokenised."""

    code = "text-invalid"


class TokenizerError(ContractError):
    """A tokenizer that fails on a piece of text: the bundle's fault, not the client's."""

    code = "tokenizer-failed"
