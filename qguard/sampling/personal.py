"""What looks like personal data or a secret in a text, by its form and, where there is one, by its checksum.

The checksums of bank accounts, cards and national ids are python-stdnum's, and phone numbers are those that libphonenumber
takes for valid. This finds patterns. It does not find names, addresses or what a text tells of a person.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from qguard.errors import LibraryProblem
from qguard.extras import install

EMAIL, PHONE, IBAN, CARD = "e-mail address", "phone number", "bank account (IBAN)", "payment card"
IP, NATIONAL, SECRET, LOGIN = "IP address", "national id", "secret", "URL with a password"
SHOWN = 24  # characters of a masked form


@dataclass(frozen=True)
class Found:
    """One pattern: its kind, and a form that shows its shape alone: ``xxxx@xxxxxxx.xxx``."""

    kind: str
    masked: str


# form and module of python-stdnum: ids whose form or checksum is strong enough to be told from other numbers
_IDS = (
    (r"\d{8}-?[A-Z]", "stdnum.es.dni"),
    (r"[XYZ]-?\d{7}-?[A-Z]", "stdnum.es.nie"),
    (r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", "stdnum.it.codicefiscale"),
    (r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", "stdnum.fr.nir"),
    (r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", "stdnum.fi.hetu"),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "stdnum.br.cpf"),
    (r"\d{17}[\dX]", "stdnum.cn.ric"),
    (r"\d{4} \d{4} \d{4}", "stdnum.in_.aadhaar"),
    (r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "stdnum.be.nn"),
    (r"(?:\d{2})?\d{6}[-+]\d{4}", "stdnum.se.personnummer"),
    (r"756\.\d{4}\.\d{4}\.\d{2}", "stdnum.ch.ssn"),
    (r"\d{11}", "stdnum.pl.pesel"),
    (r"\d{2} \d{3} \d{3} \d{3}", "stdnum.de.idnr"),
    (r"\d{3}-\d{2}-\d{4}", "stdnum.us.ssn"),  # has no checksum, but a form that little else has
)
# how each of them begins: one look in the place of fourteen
_ID = re.compile(r"(?<![\w.+-])(?:\d[\d .+-]{6,8}\d|\d{6}[A-Y]\d{3}|[XYZ]-?\d{7}|[A-Z]{6}\d\d[A-Z]|[1-478] ?\d{2} ?\d{2} ?2[AB])")
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{22}|\bglpat-[\w-]{20}"
    r"|\bxox[abeprs]-[\w-]{10}|\b[sr]k_live_\w{20}|\bAIza[\w-]{35}|\bhf_[A-Za-z]{34}|\bnpm_[A-Za-z0-9]{36}"
    r"|\bsk-(?=[\w-]{0,200}\d)[\w-]{20}"
    r"|\beyJ[\w-]{10,4096}\.eyJ[\w-]{10,4096}\.[\w-]{10}"  # JSON Web Token
)
# one of these is in each of them: most texts need no closer look
_MARKS = (
    "-----BEGIN",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "k_live_",
    "AIza",
    "hf_",
    "npm_",
    "sk-",
    "eyJ",
)
_WORDS = ("passw", "pwd", "secret", "key", "token")
# a word for a secret, and a value of letters and digits after it
_ASSIGNED = re.compile(
    r"\b(?:password|passwd|pwd|secret|api[ _-]?key|access[ _-]?token|auth[ _-]?token)\b['\"]?\s{0,3}[:=]\s{0,3}['\"]?"
    r"(?=[^\s'\"]{0,63}\d)(?=[^\s'\"]{0,63}[a-z])[^\s'\"]{8,64}",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@]{1,256}:[^\s/@]{1,256}@")
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|net|org)|test|example|invalid|localhost)$", re.IGNORECASE)  # RFC 2606
_DIGITS = re.compile(r"\d(?:[^\d\n]{0,3}\d){6}")  # nothing with fewer digits is looked at
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,36}")
_CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|35|6011|64|65")  # who issues cards
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_PHONE = re.compile(r"\+|[\d)][ .()-]{1,2}\d")  # without any of these, digits are more often an id


def personal(text: str, region: str = "US") -> list[Found]:
    """What looks like personal data or a secret, each once, in the order of the kinds.

    Args:
        text: Of any length.
        region: The country whose phone numbers are found without ``+`` too, in two letters (ISO 3166).

    Raises:
        LibraryProblem: without python-stdnum or phonenumbers.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # digits of full width are digits
    return list(dict.fromkeys(Found(kind, _masked(part)) for kind, part in _all(text, region)))


def regions() -> frozenset[str]:
    """The countries that phone numbers are known of."""
    return frozenset(_library("phonenumbers").SUPPORTED_REGIONS)


def _all(text: str, region: str) -> Iterator[tuple[str, str]]:
    if "@" in text:
        yield from ((LOGIN, m[0]) for m in _LOGIN.finditer(text))
        plain = _LOGIN.sub(" ", text)
        yield from ((EMAIL, m[0]) for m in _EMAIL.finditer(plain) if not _RESERVED.search(m[0]))
    if any(mark in text for mark in _MARKS):
        yield from ((SECRET, m[0]) for m in _SECRETS.finditer(text))
    if "=" in text or ":" in text:
        small = text.lower()
        if any(word in small for word in _WORDS):
            yield from ((SECRET, m[0]) for m in _ASSIGNED.finditer(text))
        if text.count(":") > 2:
            yield from ((IP, m[0]) for m in _IPV6.finditer(text) if _public(m[0]))
    if not _DIGITS.search(text):
        return
    for match in _IBAN.finditer(text):
        if account := _account(match[0]):
            yield IBAN, account
    for match in _CARD.finditer(text):
        if _ISSUERS.match(digits := re.sub(r"\D", "", match[0])) and _valid("stdnum.luhn", digits):
            yield CARD, match[0]
    # a section of a contract may be numbered 2.1.3.4
    yield from ((IP, m[0]) for m in _IPV4.finditer(text) if len(m[0]) >= 10 and _public(m[0]))
    ids = [(m[0], module) for form, module in _forms() for m in form.finditer(text)] if _ID.search(text) else []
    yield from ((NATIONAL, found) for found, module in ids if _valid(module, found))
    if _PHONE.search(text):
        for match in _library("phonenumbers").PhoneNumberMatcher(text, region):
            if (
                _PHONE.search(match.raw_string)
                and "/" not in match.raw_string
                and not any(match.raw_string in found for found, _ in ids)
            ):
                yield PHONE, match.raw_string


@cache
def _forms() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(rf"(?<![\w.+-]){form}(?![\w-])"), module) for form, module in _IDS)


def _account(found: str) -> str:
    """The account that some letters and digits begin with; empty where no beginning has the right checksum."""
    for end in range(len(found), 14, -1):
        if found[end - 1] != " " and _valid("stdnum.iban", found[:end]):
            return found[:end]
    return ""


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _valid(module: str, number: str) -> bool:
    valid: Callable[[str], bool] = _library(module).is_valid
    return valid(number)


@cache
def _library(module: str):  # type: ignore[no-untyped-def]
    try:
        return import_module(module)
    except ModuleNotFoundError as e:
        needed = {"stdnum": "python-stdnum", "phonenumbers": "phonenumberslite"}[module.partition(".")[0]]
        raise LibraryProblem(f"personal data is looked for with {needed}, which is not installed: {install(needed)}") from e


def _masked(part: str) -> str:
    """The shape of what was found: letters are x, digits 9."""
    shape = "".join("9" if c.isdigit() else "X" if c.isupper() else "x" if c.isalpha() else c for c in part)
    return shape if len(shape) <= SHOWN else shape[: SHOWN - 1] + "…"
