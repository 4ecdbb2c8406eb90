"""Secrets and personal folders in text: the one detector, and their removal from our own output.

Logs, errors, manifests, the report and the cards pass through `redact`; `ttl publish` refuses what
`find_secrets` finds, and chat data is checked with it. A secret has a known form (a provider's
token, a private key, a password in a URL), is a random word that a name such as `password` or a
provider's prefix precedes, or is the value of an environment variable whose name says so.

`find_secrets` asks the detectors of detect-secrets too (about 1.5 MB/s in all, on one core), and
takes a random word for a secret after any name. `redact` does neither: a line of a log costs about
25 µs, and our own logs name hashes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

# Kind, strings of which a text must have one before the pattern is tried, and the pattern, whose
# group `secret`, if any, is the secret itself. Secrets are rare: for nearly every text a few
# searches for fixed strings are enough.
_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "private-key",
        ("PRIVATE KEY",),
        r"-----BEGIN[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?(?:-----)?"
        r"(?:(?:\s|\\[nr])*(?:[A-Z][\w-]{1,30}: [^\n\\]{1,200}|[\w+/=\s\\]{40,})){0,9}"
        r"(?:(?:\s|\\[nr])*-----END[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?",
    ),
    (
        "private-key",
        ("PuTTY-User-Key-File-",),
        r"PuTTY-User-Key-File-\d:[^\0]{0,4000}?Private-Lines: \d{1,3}(?:\s{1,2}[\w+/=]{16,}){1,64}",
    ),
    (
        "aws-secret-key",
        ("aws", "AWS", "Aws"),
        r"(?i)aws\w{0,20}?(?:secret|access)\w{0,20}[\"'`\])]{0,2}\s{0,3}(?:[:?]?=>?|:)\s{0,3}[\"'`]?"
        r"(?P<secret>(?=[a-z/+]*[0-9])[a-z0-9/+]{36,44}={0,2})(?![\w/+])",
    ),
    (
        "azure-key",
        ("AccountKey=", "SharedAccessKey="),
        r"(?:AccountKey|SharedAccessKey)=(?P<secret>[\w+/-]{40,}={0,2})",
    ),
    ("age-key", ("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[A-Z0-9]{50,60}"),
    ("hugging-face-token", ("hf_", "api_org_"), r"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}"),
    ("github-token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_\w{36,}"),
    ("github-token", ("github_pat_",), r"\bgithub_pat_\w{50,}"),
    (
        "gitlab-token",
        ("gl",),
        r"\bgl(?:pat|ptt|dt|rt|rtr|cbt|ft|soat|imt|agent|ffct|oas|wt)-[\w.-]{20,}",
    ),
    ("gitlab-token", ("GR1348941",), r"\bGR1348941[\w-]{20,}"),
    ("gitlab-token", ("_gitlab_session=",), r"_gitlab_session=(?P<secret>[0-9a-z]{32})"),
    (
        "aws-key",
        ("AKIA", "ASIA", "ABIA", "ACCA", "AGPA", "AIDA", "AROA", "AIPA", "ANPA", "ANVA", "A3T"),
        r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[A-Z0-9]{16}\b",
    ),
    ("alibaba-key", ("LTAI",), r"\bLTAI[A-Za-z0-9]{12,30}\b"),
    ("tencent-key", ("AKID",), r"\bAKID[A-Za-z0-9]{32}\b"),
    (
        "api-key",
        ("sk-", "_live_", "_test_"),
        r"\b(?:sk-[\w-]{20,}|[a-z]{2,10}_(?:live|test)_[\w=-]{10,})",
    ),
    ("api-key", ("FLW",), r"\bFLW(?:SECK|PUBK)_TEST-[0-9a-h]{12,}"),
    ("api-key", ("access-",), r"\baccess-(?:sandbox|development|production)-[0-9a-f-]{36}"),
    ("facebook-token", ("|", "%"), r"(?<![0-9])[0-9]{15,16}[|%][\w-]{27,40}"),
    ("api-key", ("EAA",), r"\bEAA[A-Za-z0-9]{40,}"),
    ("api-key", ("EZ", "PMAK-", "PMAT-"), r"\b(?:EZ[AT]K|PMA[KT]-)[\w-]{40,}"),
    ("artifactory-token", ("AKC", "cmVmd"), r"\b(?:AKC[a-zA-Z0-9]{10,}|cmVmd[A-Za-z0-9]{50,})"),
    ("atlassian-token", ("ATATT3", "ATBB"), r"\b(?:ATATT3|ATBB|ATCTT3)[\w=-]{20,}"),
    ("google-key", ("AIza", "ya29."), r"\b(?:AIza[\w-]{35}|ya29\.[\w-]{20,})"),
    ("google-token", ("1//0",), r"(?<![\w/])1//0[\w-]{30,}"),
    ("google-secret", ("GOCSPX-",), r"\bGOCSPX-[\w-]{20,}"),
    ("slack-token", ("xox", "xapp", "xwfp"), r"\b(?:xox[a-z](?:\.xox[a-z])?|xapp|xwfp)-[\w%-]{8,}"),
    ("sendgrid-key", ("SG.",), r"\bSG\.[\w.=-]{20,}"),
    (
        "azure-signature",
        ("sig=",),
        r"[?&;](?:sv|se|sp|sr|st|spr)=\S{0,300}[?&;]sig=(?P<secret>[\w%+/=-]{20,})",
    ),
    ("twilio-key", ("SK", "AC"), r"\b(?:SK|AC)[0-9a-fA-F]{32}\b"),
    ("mailgun-key", ("key-",), r"\b(?:pub)?key-[0-9a-f]{32}\b"),
    ("databricks-token", ("dapi",), r"\bdapi[0-9a-fA-F]{32}"),
    ("replicate-token", ("r8_",), r"\br8_[A-Za-z0-9]{30,}"),
    ("vault-token", ("hvs.", "hvb.", "hvr."), r"\bhv[sbr]\.[\w-]{20,}"),
    (
        "vault-token",
        ("s.", "b."),
        r"(?<![\w.])[sbr]\.(?=\w*[0-9])(?=\w*[a-z])[A-Za-z0-9]{24}(?!\w)",
    ),
    ("terraform-token", (".atlasv1.",), r"\b\w{10,20}\.atlasv1\.[\w=-]{50,}"),
    ("dropbox-token", ("sl.", "AAAAAAA"), r"\b(?:sl\.[\w=-]{100,}|\w{10,12}AAAAAAAAAA[\w=-]{20,})"),
    ("discord-token", (".",), r"\b[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6,7}\.[\w-]{27,40}"),
    ("telegram-token", (":A",), r"(?<![0-9])[0-9]{5,16}:A[\w-]{34}(?![\w-])"),
    ("square-token", ("EAAA", "sq0"), r"\b(?:EAAA|sq0[a-z]{3}-)[\w-]{20,}"),
    ("pypi-token", ("pypi-",), r"\bpypi-[\w-]{50,}"),
    ("npm-token", ("npm_", "_auth"), r"\bnpm_\w{36}\b|_auth(?:Token)?=(?P<secret>[^$\s\"']+)"),
    (
        "bundler-credential",
        ("BUNDLE_",),
        r"\bBUNDLE_\w{3,60}__\w{2,10}[\"']?\s{0,3}[^\s\w\"']{1,3}\s{0,3}[\"']?(?P<secret>\w[\w:@.-]{7,})",
    ),
    (
        "password-in-xml",
        ("key=",),
        r"(?i)key=[\"'][\w.]{0,40}(?:password|secret|token|apikey)[\"']\s{0,3}"
        r"value=[\"'](?P<secret>[^\"'%${}]{8,200})[\"']",
    ),
    ("figma-token", ("figd_",), r"\bfigd_[\w-]{36,}"),
    ("mercado-pago-token", ("APP_USR-",), r"\bAPP_USR-[0-9]{10,}-[\w-]{30,}"),
    ("paypal-token", ("access_token$",), r"\baccess_token\$\w{4,12}\$\w{10,}\$[0-9a-f]{30,}"),
    ("stripe-key", ("whsec_",), r"\bwhsec_[\w+/=]{24,}"),
    ("yandex-key", ("AQVN",), r"\bAQVN[\w-]{34,38}"),
    (
        "one-time-password",
        ("otpauth://",),
        r"\botpauth://[^\s]{0,200}?[?&]secret=(?P<secret>[A-Z2-7]{16,})",
    ),
    (
        "cookie",
        ("ookie:", "OOKIE:"),
        r"(?i)\b(?:set-)?cookie:[^\n]{0,500}?=(?P<secret>(?=[\w.%~+/-]*[0-9])[\w.%~+/-]{24,})",
    ),
    ("nuget-key", ("oy2",), r"\boy2[a-z0-9]{43}\b"),
    ("planetscale-token", ("pscale_",), r"\bpscale_\w{2,6}_[\w=.-]{32,}"),
    ("clojars-token", ("CLOJARS_",), r"\bCLOJARS_\w{60}"),
    ("wandb-key", ("wandb_v1_",), r"\bwandb_v1_\w{30,}"),
    ("1password-key", ("A3-",), r"\bA3-[A-Z0-9]{6}-[A-Z0-9-]{26,}"),
    ("web-token", ("ey",), r"\b(?:[a-z]{2,10}_)?ey[\w-]{12,}(?:\.[\w\\/-]{12,}){1,2}[\w.=/+-]*"),
    ("web-token", ("ZXlK", "_eyJ"), r"\b(?:ZXlK|[a-z]{2,10}_eyJ)[\w/+-]{40,}={0,2}"),
    (
        "webhook",
        ("hook", "chat.googleapis.com", "logic.azure.com"),
        r"https://(?:hooks\.\w{2,20}\.com|[\w.]{0,60}(?:discord|discordapp)\.com/api/webhooks"
        r"|[\w.-]{1,80}webhook\.office\.com|outlook\.office\.com/webhook"
        r"|chat\.googleapis\.com/v1/spaces|[\w.-]{1,80}logic\.azure\.com)"
        r"/[\w/@?&=%.+-]{10,}",
    ),
    (
        "password-in-address",
        ("://",),
        r"://(?P<secret>[^\s/:@\"'<>]{0,256}:(?!(?i:[a-z]*pass(?:word|wd)?|[a-z]*senha|secret|pwd|foo[^@]*|bar|baz|xxx+|\*+|\.+)@)"
        r"(?![${<%])[^\s/@\"'<>]{3,256})@[\w\[]",
    ),
    (
        "password-in-address",
        ("sql", "mongodb", "postgres", "redis", "amqp"),
        r"\b(?:mongodb(?:\+srv)?|mysqlx?|mssql|postgres(?:ql)?|rediss?|amqps?)://[^\s:]{0,100}:"
        r"(?P<secret>(?!(?i:[a-z]*pass(?:word|wd)?|[a-z]*senha|secret|pwd|foo[^@]*|bar|baz|xxx+|\*+)@)(?![${<%])"
        r"[^\s@/]{3,200})@",
    ),
    ("token-in-address", ("://",), r"://(?P<secret>(?=[^\s/@]*[0-9])[\w.~-]{20,256})@[\w\[]"),
    (
        "netrc-password",
        ("password ",),
        r"\b(?:login|machine) \S{1,100}\s+password (?P<secret>\S{6,100})",
    ),
    (
        "bearer-token",
        ("earer ", "EARER ", "asic ", "uthorization", "UTHORIZATION"),
        r"(?i)\b(?:bearer[ :]+[\"'`]?(?P<secret>(?=[\w+/.=~-]*[0-9])[\w+/.~-]{16,}=*)"
        r"|basic (?P<secret3>(?=[\w+/=]*[0-9])[A-Za-z0-9+/]{16,}=*))"
        r"|authorization[\"'`]?\s*[:=]\s*[\"'`]?(?:bearer|basic|token|apikey|key)?\s*=?"
        r"(?P<secret2>(?=[\w+/.=~-]*[0-9])[\w+/.~-]{8,}=*)",
    ),
    (
        "password-on-command-line",
        ("curl", "wget", "mysql", "mariadb", "redis-cli", "sshpass"),
        r"\b(?:curl|wget)\b[^\0]{0,200}?\s-{1,2}(?:u|user|password)[ =]?[\"']?"
        r"(?P<secret>[^\s\"':]{0,64}:[^\s\"']{3,64})"
        r"|\bsshpass\s+-p\s?[\"']?(?P<secret2>[^\s\"']{4,64})"
        r"|\b(?:mysql\w{0,8}|mariadb)\s[^\0\n]{0,100}?-p(?P<secret3>(?=[^\s\"']*[0-9])[^\s\"']{6,64})"
        r"|\bredis-cli\s[^\0\n]{0,100}?-{1,2}(?:a|pass)\s(?P<secret4>(?=\S*[0-9])[^\s\"']{6,64})",
    ),
)
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_?KEY|CREDENTIAL|SENHA|SEGREDO"
    r"|CONTRASE|(?:^|_)(?:PASS|PAT|PWD|PW|KEY|AUTH|PIN)(?:_|$)"
)
MIN_SECRET_CHARACTERS = 8
# A word long enough for a key, and what may stand before it where it is a value: a name and a sign.
_LONG_WORD = re.compile(r"[A-Za-z0-9+/_~.-][A-Za-z0-9+/_~.=%-]{12,}")
_NAME_BEFORE = re.compile(
    r"(?P<query>[?&])?(?P<name>[A-Za-z][\w.-]{1,80})[\"'`\])]{0,3}"
    r"\s{0,3}(?P<sign>[:?!]?=>?|:{1,3}=?|>|\|\||,)\s{0,3}[\"'`(\[=]{0,5}$"
)
_SECRET_WORD = re.compile(
    r"(?i:pass(?!age|ive|ed)|pwd|senha|segredo|contrase|secret|token(?!iz|is|s_)|credential|bearer"
    r"|auth(?!or)|api|private)|(?i:key)(?![a-z])|(?:^|[_.-])(?i:pat|pw|pin|sas)(?:$|[_.-])"
)
# A setting named after one of these services is its key more often than anything else.
_SERVICE = re.compile(
    r"(?i)adobe|airtable|algolia|alibaba|amazon|anthropic|asana|atlassian|aws|azure|binance|bitbucket"
    r"|cloudflare|codecov|cohere|coinbase|confluen|contentful|datadog|digitalocean|discord|dropbox"
    r"|etsy|facebook|fastly|figma|firebase|flickr|github|gitlab|grafana|heroku|hubspot|huggingface"
    r"|instagram|intercom|jenkins|jira|kraken|kucoin|linked.?in|looker|mail.?chimp|mail.?gun"
    r"|mapbox|mattermost|message.?bird|mistral|mongodb|netlify|new.?relic|notion|ny.?times"
    r"|new.?york.?times|okta|openai|paypal|plaid|postmark|pusher|send.?bird|send.?grid|sentry"
    r"|shopify|slack|snyk|spotify|stripe|sumo|supabase|telegram|trello|twilio|twitch|twitter"
    r"|typeform|vercel|wandb|yandex|zendesk|zoom"
)
# Names of values that look random and are no secrets.
_PUBLIC_NAME = re.compile(
    r"(?i)sha-?[0-9]|md5|hash|digest|checksum|crc|commit|revision|etag|integrity|fingerprint|public"
    r"|thumbprint|uuid|guid|nonce|version|src|href|url|https?$|image|file|path|charset|boundary|spkac"
    r"|signature|serial|plain|(?:host|bytes|blob|name|^str|description)$|\.\w{2,4}$"
)
_GENERIC_NAME = re.compile(
    r"(?i)(?:^|[\W_])(?:id|value|list|name|type|class|root|data|ref|v|link|func|meth|e[xj]e?mpl?o|exampl[eo]|\w*id)$"
)
_SECRET_WORDS = ("pass", "pwd", "senha", "segredo", "contrase", "secret", "token", "key", "auth")
_SHORT_SECRET = re.compile(
    r"(?<![\w.-])(?P<name>[\w.-]{0,60}?(?i:passw(?:or)?d|passphrase|pass|pwd|senha|segredo|secret|token"
    r"|api_?key|auth)[\w.-]{0,20})[\"'`\]]{0,3}\s{0,3}(?:[:?!]?=>?|:)\s{0,3}[\"'`]"
    r"(?![${<%(])(?P<secret>(?=[^\"'`\n]*[0-9])(?=[^\"'`\n]*[A-Za-z])[^\s\"'`]{8,200})[\"'`]"
)
_PASSWORD_NAME = re.compile(
    r"(?i)passw(?:or)?d$|passphrase|(?:^|[_.-])(?:pass|pwd|senha)$|^pwd$|^senha$|contrase[nñ]a"
)
_PREFIX = re.compile(r"(?:[A-Za-z]{2,12}[0-9]{0,2}[_-]){1,4}")
_PLACEHOLDER = re.compile(r"(?i)x{4}|example|your|change|placeholder|dummy|\.\.\.")
_HEX_KEY = re.compile(r"(?=.*[a-fA-F])(?=.*[0-9])(?:[0-9a-f]{32,64}|[0-9A-F]{32,64})")
_UUID = re.compile(r"(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Home folders wherever they are mounted: Linux and its network and cluster file systems, BSD,
# macOS, Git Bash, Cygwin, WSL (from both sides), Windows and its shares, Databricks; also in URLs.
_HOMES = re.compile(
    r"(?:(?<![\w./:])(?:file://)?(?:(?:/[\w.@+-]{1,64}){0,6}?/(?:home\d{0,2}|nethome|[Uu]sers)/"
    r"|/(?:run/)?media/)"
    r"|%2F(?:home|Users)%2F"
    r"|\\{1,2}wsl[\w.$]{1,12}\\{1,2}[\w.-]{1,40}\\{1,2}home\\{1,2}"
    r"|(?<![\w.])(?:[A-Za-z]:|\\{2,4}[\w.-]{1,40})[\\/]{1,2}"
    r"(?:Users|Documents and Settings)[\\/]{1,2})"
    r"(?!\[user\])[^\s/\\\"'<>:,;\[%]{1,64}"
)


@dataclass(frozen=True)
class Secret:
    """Kind and position of a secret; `fingerprint` identifies it without showing it."""

    kind: str
    start: int
    end: int
    fingerprint: str


def find_secrets(text: str) -> Iterator[Secret]:
    """Every secret in a text, by kind.

    >>> [s.kind for s in find_secrets("https://ana:segredo9@example.org/x")]
    ['password-in-address']
    """
    for start, end, kind in _spans(text, _own_spans(text), _library_spans(text)):
        yield Secret(kind, start, end, _fingerprint(text[start:end]))
    for name, value in _environment_secrets():
        start = text.find(value)
        if start >= 0:
            kind = f"value-of-{name}"
            yield Secret(kind, start, start + len(value), _fingerprint(value))


def find_personal_folders(text: str) -> Iterator[str]:
    """Home folders, such as `/home/ana`: they name a person. This user's is among them.

    >>> list(find_personal_folders("read /home/ana/textos/a.txt"))
    ['/home/ana']
    """
    if "/" in text or "\\" in text or "%2F" in text:
        for match in _HOMES.finditer(text):
            yield match[0]
        if _own_home().search(text):
            yield str(Path.home())


def redact(text: str, *, for_others: bool = False) -> str:
    r"""The text without secrets, and with `~` for this user's home folder.

    With `for_others`, for files that leave this machine, `[user]` replaces any person's name.

    >>> redact("hf_" + "a" * 34), redact("https://ana:segredo9@example.org")
    ('[hugging-face-token removed]', 'https://[password-in-address removed]@example.org')
    >>> redact("/home/ana/textos", for_others=True)
    '/home/[user]/textos'
    """
    for start, end, kind in reversed(_spans(text, _own_spans(text, of_any_name=False))):
        text = f"{text[:start]}[{kind} removed]{text[end:]}"
    for name, value in _environment_secrets():
        text = text.replace(value, f"[value of {name} removed]")
    if "/" in text or "\\" in text or "%2F" in text:
        text = _own_home().sub("~", text)
        text = _HOMES.sub(_without_user, text) if for_others else text
    return text


def redact_values(value: Any, *, for_others: bool = False) -> Any:
    """`redact` for every string inside lists and mappings, keys included."""
    clean = partial(redact_values, for_others=for_others)
    if isinstance(value, str):
        return redact(value, for_others=for_others)
    if isinstance(value, Mapping):
        return {clean(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return value


def _spans(text: str, *found: Iterator[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Start, end and kind of every secret, in order, without those inside another."""
    kept: list[tuple[int, int, str]] = []
    for span in sorted(chain(*found), key=lambda span: (span[0], -span[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _own_spans(text: str, *, of_any_name: bool = True) -> Iterator[tuple[int, int, str]]:
    for kind, gates, pattern in _KINDS:
        if any(gate in text for gate in gates):
            # Compiled at its first use (and kept by `re`): all of them would slow every start.
            for match in re.finditer(pattern, text):
                yield *_span_of(match), kind
    yield from _values(text, of_any_name=of_any_name)


def _library_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """What the patterns of detect-secrets find."""
    for kind, pattern in _library_patterns():
        for match in pattern.finditer(text):
            if not _PLACEHOLDER.search(match[0]):
                yield *match.span(), kind


@cache
def _library_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Kinds and patterns of detect-secrets.

    Without those of IP addresses, and two that take `user:password@` and class names for secrets.
    """
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    return tuple(
        (kind.lower().replace(" ", "-"), pattern)
        for kind, detector in get_mapping_from_secret_type_to_class().items()
        if issubclass(detector, RegexBasedDetector)
        and detector.__name__
        not in ("IPPublicDetector", "BasicAuthDetector", "ArtifactoryDetector")
        for pattern in detector().denylist
    )


def _span_of(match: re.Match[str]) -> tuple[int, int]:
    """The group `secret`, or the whole match."""
    return match.span(match.lastgroup or 0)


def _values(text: str, *, of_any_name: bool) -> Iterator[tuple[int, int, str]]:
    """Random words that are the value of a name or begin like a provider's keys."""
    for match in _LONG_WORD.finditer(text):
        word, start = match[0].rstrip("."), match.start()
        # What is called, like `base642bin(...)`, is a name.
        called = text[match.end() : match.end() + 1] == "("
        if called or not any(c in word for c in "0123456789"):
            continue
        name, sign, value = word.partition("=")
        if sign and len(value) > 8 and not _is_random(name):
            sign = "?" if "/" in name or text[start - 1 : start] in ("?", "&") else sign
            start += len(name) + 1
            name = name.rsplit("/")[-1]
        else:
            value = word
            before = _NAME_BEFORE.search(text, max(start - 100, 0), start)
            name = before["name"] if before else ""
            sign = "?" if before and before["query"] else before["sign"] if before else ""
        if _is_secret(name, sign, value, of_any_name=of_any_name):
            yield start, start + len(value), "secret-value"
    lower = text.lower()
    if any(word in lower for word in _SECRET_WORDS):
        for match in _SHORT_SECRET.finditer(text):
            name = match["name"]
            public = _PUBLIC_NAME.search(name) or _GENERIC_NAME.search(name)
            if not public and not _PLACEHOLDER.search(match["secret"]):
                yield *match.span("secret"), "secret-value"


def _is_secret(name: str, sign: str, value: str, *, of_any_name: bool) -> bool:
    """Whether the value of this name is one; without a name, whether it looks like a key.

    Not `of_any_name`: only where the name says so. Our own logs name hashes and identifiers.
    """
    if _PLACEHOLDER.search(value) or _PUBLIC_NAME.search(name) or "//" in value:
        return False
    if _SECRET_WORD.search(name) or _SERVICE.search(name):
        known = _HEX_KEY.fullmatch(value) or (value.isdigit() and len(value) >= 16)
        if _PASSWORD_NAME.search(name) and sign != ",":
            known = known or _is_mixed(value)
        return bool(known) or _is_random(value, changes=0.2 if sign == "," else 0.12)
    if sign == "?" or value.startswith("MII") or _UUID.fullmatch(value):
        return False
    parts = [
        part
        for part in re.split(r"[\W_]", value)
        if len(part) >= 14 and (_is_random(part, 0.22) or _HEX_KEY.fullmatch(part))
    ]
    prefix = _PREFIX.match(value)
    enough = sum(map(len, parts)) >= len(value) / 2
    if prefix and "/" not in value and enough and any(len(part) >= 16 for part in parts):
        return not _PUBLIC_NAME.search(prefix[0])
    if "." in value:
        return sum(map(len, parts)) >= 40 and "/" not in value
    is_hex = not value.strip("0123456789abcdefABCDEF-")
    if not of_any_name or not name or _GENERIC_NAME.search(name) or "%" in value:
        return False
    if (sign == "," and (is_hex or len(name) < 4)) or len(value) > (64 if is_hex else 200):
        return False
    longest = max(map(len, re.split(r"[\W_]", value)))
    return len(value) >= 20 and longest >= 10 and _is_random(value, changes=0.25)


def _is_random(word: str, changes: float = 0.2) -> bool:
    """Whether letters and digits alternate as in a random word, and not as in a name.

    >>> [_is_random(word) for word in ("k3Jd9xQ2mZ7vLp0a", "Win32_OperatingSystem2", "2021-01-30")]
    [True, False, False]
    """
    letters = [c for c in word if c.isalnum()]
    digits = sum(c.isdigit() for c in letters)
    if len(letters) < 12 or digits == len(letters):
        return False
    # A capital letter and a small one after it are the beginning of a name's word.
    found = sum(
        _class(a) != _class(b) and not (a.isupper() and b.islower()) for a, b in pairwise(letters)
    )
    # A few digits are in many names.
    enough = digits >= 3 or (digits and found >= 0.3 * len(letters)) or found >= 0.4 * len(letters)
    return bool(enough) and found >= changes * len(letters) and len(set(letters)) >= 6


def _is_mixed(word: str) -> bool:
    """Whether a word has digits, capital and small letters, and no word of a language in it.

    >>> [_is_mixed(word) for word in ("bT4kRwmNxQyz", "Segredo2024", "minhaSenha1234")]
    [True, False, False]
    """
    classes = {_class(letter) for letter in word if letter.isalnum()}
    return len(word) >= 10 and len(classes) == 3 and not re.search(r"[a-z]{5}", word)


def _class(letter: str) -> int:
    return 0 if letter.isdigit() else 1 if letter.isupper() else 2


def _without_user(match: re.Match[str]) -> str:
    folder = re.match(r".*[/\\](?=[^/\\]+$)", match[0])
    return f"{folder[0] if folder else ''}[user]"


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@cache
def _environment_secrets() -> tuple[tuple[str, str], ...]:
    """Variables named like a secret, longest value first: one may be a prefix of another.

    Read once: reading the environment for every text would cost more than the search.
    """
    found = [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= MIN_SECRET_CHARACTERS
        and _SECRET_NAME.search(name.upper())
        and not Path(value).is_absolute()  # the path of a secret is not a secret
    ]
    return tuple(sorted(found, key=lambda pair: (-len(pair[1]), pair[0])))


@cache
def _pattern_of_home(home: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.~]){re.escape(home)}(?=[/\\]|$|[\s\"'<>:,;])")


def _own_home() -> re.Pattern[str]:
    """Matches this user's home folder; a home of `/` names nobody."""
    home = str(Path.home())
    return _pattern_of_home(home if len(home) > 2 else "\0")
