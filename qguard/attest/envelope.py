"""Reading a verdict: a bare statement, a DSSE envelope, or a Sigstore bundle around one; and the signature of an envelope.

DSSE (https://github.com/secure-systems-lab/dsse) signs the payload's type together with its bytes, so that nothing is parsed
before it is known to be authentic.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import RefusedProblem, UsageProblem, VerdictProblem

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_TYPES = (PAYLOAD_TYPE, "application/vnd.in-toto.test-result+json")


@dataclass(frozen=True)
class Read:
    """A statement, not yet known to be one, and what is known of its author.

    Attributes:
        statement: A JSON object.
        enveloped: It came in an envelope.
        authentic: That envelope's signature is the given key's.
    """

    statement: dict[str, Any]
    enveloped: bool = False
    authentic: bool = False


def read(path: Path, key: Path | None = None) -> Read:
    """Read a verdict, and check who signed it where a key is given.

    Args:
        path: A statement, a DSSE envelope, or a Sigstore bundle with one.
        key: A public key in PEM: Ed25519, ECDSA (P-256, P-384, P-521) or RSA.

    Raises:
        VerdictProblem: for what cannot be read, or is no JSON object.
        UsageProblem: for a key that cannot be used, or without the library that checks signatures.
        RefusedProblem: with a key, for what is not signed by it; for an envelope around something else.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise VerdictProblem(
            f"cannot read the verdict {path}: {e.strerror or e}; write one with: pytest --precision int8 --qguard-attest={path}"
        ) from e
    outer = _object(data, str(path))
    envelope = outer.get("dsseEnvelope", outer)
    if not isinstance(envelope, dict) or "payload" not in envelope:
        if key is not None:
            raise RefusedProblem(
                f"{path} is not signed: --key expects a DSSE envelope, found a bare statement; sign it, for example with: "
                f"cosign attest-blob --key cosign.key --statement {path} --bundle {path}.sigstore.json"
            )
        return Read(outer)
    kind, payload, signatures = _parts(envelope, str(path))
    if key is not None:
        _check_signature(key, pre_authentication(kind, payload), signatures, path)
    if kind not in _TYPES:
        raise RefusedProblem(f"{path}: expected the payload type {PAYLOAD_TYPE}, found {kind!r}; it is no in-toto statement")
    return Read(_object(payload, f"the payload of {path}"), True, key is not None)


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """What DSSE signs: ``DSSEv1``, then type and payload, each with its length in bytes before it, parted by spaces."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_finite)
    except (ValueError, RecursionError) as e:
        raise VerdictProblem(f"{name} ({len(data)} bytes) is not whole, valid JSON ({e}); copy or write it again") from e
    if not isinstance(value, dict):
        raise VerdictProblem(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal keys: what one signed the other would not see."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _parts(envelope: dict[str, Any], name: str) -> tuple[str, bytes, list[bytes]]:
    try:
        kind, signatures = envelope["payloadType"], envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        return str(kind), payload, [base64.b64decode(s["sig"], validate=True) for s in signatures]
    except (KeyError, TypeError, binascii.Error, ValueError) as e:
        raise VerdictProblem(
            f"{name}: expected a DSSE envelope with payloadType, payload and signatures in base64 ({e!r}); copy it again"
        ) from e


def _check_signature(key: Path, signed: bytes, signatures: list[bytes], path: Path) -> None:
    verifier = _verifier(key)
    if not any(verifier(signature, signed) for signature in signatures):
        raise RefusedProblem(
            f"{path}: expected a signature of the key {key}, found {len(signatures)} of other keys, or the payload was changed "
            "after it was signed; take the file that the signer wrote, or the signer's public key"
        )


def _verifier(key: Path) -> Any:
    """A function of signature and signed bytes that says whether they fit the key."""
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as e:
        raise UsageProblem("--key needs the package cryptography: pip install 'qguard[sign]'") from e
    try:
        public = load_pem_public_key(key.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as e:
        raise UsageProblem(f"--key {key}: expected a public key in PEM, found {e.__class__.__name__}: {e}") from e
    sha256 = hashes.SHA256()
    tries: list[Any] = []
    if isinstance(public, ed25519.Ed25519PublicKey):
        tries = [()]
    elif isinstance(public, ec.EllipticCurvePublicKey):
        tries = [(ec.ECDSA(h),) for h in (sha256, hashes.SHA384(), hashes.SHA512())]
    elif isinstance(public, rsa.RSAPublicKey):
        pss = padding.PSS(padding.MGF1(sha256), padding.PSS.AUTO)
        tries = [(padding.PKCS1v15(), sha256), (pss, sha256)]
    else:
        raise UsageProblem(f"--key {key}: expected an Ed25519, ECDSA or RSA key, found {type(public).__name__}")

    def fits(signature: bytes, signed: bytes) -> bool:
        for how in tries:
            try:
                public.verify(signature, signed, *how)
            except InvalidSignature:
                continue
            return True
        return False

    return fits
