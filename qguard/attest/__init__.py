"""The verdict for machines: bound to an artifact's bytes, so that a deployment can ask whether these very files passed.

An in-toto Statement v1 (https://in-toto.io/Statement/v1) with the predicate Test Result v0.1
(https://in-toto.io/attestation/test-result/v0.1). Who wrote it is told by a signature around it, never by the statement itself.
"""

from qguard.attest.envelope import read
from qguard.attest.shape import verdict_of
from qguard.attest.statement import statement
from qguard.attest.verification import Asked, verify

__all__ = ["Asked", "read", "statement", "verdict_of", "verify"]
