"""Secrets and personal folders are found in text and removed from it."""

from __future__ import annotations

import pytest
from support.canaries import SECRETS

from teenytinyllama import redaction
from teenytinyllama.redaction import find_personal_folders, find_secrets, redact

# Shortest secrets of each form that an earlier detector of chat data found and this one must too.
SHORT_SECRETS = {
    "private-key": "-----BEGIN RSA PRIVATE KEY-----",
    "aws-key": "ASIAABCDEFGHIJKLMNOP",
    "github-token": "ghs_" + "a1" * 18,
    "hugging-face-token": "hf_" + "a1" * 15,
    "slack-token": "xoxp-1234567890",
    "api-key": "sk-" + "a1_-" * 5,
    "google-key": "AIza" + "a1_-b" * 7,
}


@pytest.mark.parametrize("kind", SHORT_SECRETS)
def test_short_secrets_are_found_and_removed(kind: str) -> None:
    secret = SHORT_SECRETS[kind]
    found = list(find_secrets(f"veja: {secret} (fim)"))
    assert [one.kind for one in found] == [kind]
    assert redact(f"veja: {secret} (fim)") == f"veja: [{kind} removed] (fim)"


X = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0U1v2W3x4Y5z6"
HEX = "3f9ac07b51e24d86" * 2
# A text of each kind of form; the secret is what stands after the bar.
FORMS = (
    "aws_secret_access_key = |wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzKEYKEY1",
    "DefaultEndpointsProtocol=https;AccountKey=|" + X + X[:34] + "==",
    "|GOCSPX-" + X[:28],
    "|https://hooks.slack.com/services/T0ABCDEF0/B0ABCDEF0/" + X[:24],
    "|https://discord.com/api/webhooks/1234567890/" + X,
    "https://x.blob.core.windows.net/a?sv=2022-11-02&se=2030&sig=|" + X[:43],
    "|123456789:AA" + X[:33],
    "|rk_live_" + X[:24],
    "|SG." + X[:22] + "." + X[:43],
    "|xkeysib-" + HEX * 2,
    "|shpat_" + HEX,
    "|dp.pt." + X[:43],
    "WANDB_API_KEY=|" + HEX + HEX[:8],
    '"client_secret": "|' + X[:32] + '"',
    "heroku_api_key: |3f9ac07b-51e2-4d86-9c07-b51e24d863f9",
    "Authorization: Bearer |" + X,
    "redis://|:segredo9999@host:6379",
    "machine x password |" + X[:20],
    "DB_PASSWORD = '|k7#pQ2!vz9'",
    "curl https://example.org -u |ana:segredo99",
    "|1//0" + X,
    "|figd_" + X[:40],
    "|APP_USR-1234567890123456-010203-" + HEX + "-123456789",
    "|access_token$production$" + X[:16].lower() + "$" + HEX,
    "|whsec_" + X[:32],
    "|AQVN" + X[:36],
    "otpauth://totp/ana?secret=|" + "JBSWY3DPEHPK3PXP" * 2,
    "Cookie: a=b; sessionid=|" + X[:32].lower(),
    "mysql -h db -u root -p|bT4kRwmNxQyz loja",
    "redis-cli -h db -a |bT4kRwmNxQyz",
    "DB_PASS=|bTkRwmNxQ4",
    "|PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\nPrivate-Lines: 1\n" + X,
)
NO_SECRETS = (
    "DB_PASS=Segredo2024",
    "senha: Passarinho7",
    "password = changeMe2024",
    "um cookie: receita=chocolate com 200 g de farinha",
    "o arquivo 1//0 não existe",
)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_many_providers_are_found_and_removed(form: str) -> None:
    before, _, secret = form.partition("|")
    text = f"texto {before}{secret} fim"
    assert list(find_secrets(text))
    assert secret.rstrip('"')[-12:] not in redact(text)


@pytest.mark.parametrize(
    "text",
    (
        "sha256 = " + HEX * 2,
        "revision: " + HEX + HEX[:8],
        "d2l.load_data_ml100k(); corr2d_multi_in_out_1x1 = PyUnicode_AsUTF8AndSize",
        "tokens_per_step = 300000, password = 'password', api_key = your_api_key_here1",
        "https://www.youtube.com/watch?v=FZ0cG47msEk&list=PLNG_1j3cPCaZZ7etkzWA7JfdmKWT0pMsa",
        "--set=root fe3e1db5-6454-46d6-a14c-071208ebe4b1",
        "<https://github.com/x/y/tree/35d0dbb8c6467128a4b4637a35d0dbb8c6467128>",
    ),
)
def test_hashes_names_and_addresses_are_no_secrets(text: str) -> None:
    assert [text[one.start : one.end] for one in find_secrets(text)] == []


@pytest.mark.parametrize("text", NO_SECRETS)
def test_examples_and_prose_are_no_secrets(text: str) -> None:
    assert not list(find_secrets(text))


def test_an_encrypted_private_key_is_removed_whole() -> None:
    head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,ABC\n\n"
    body = "\n".join([X + X[:12]] * 5)
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{head}{body}\n-----END RSA PRIVATE KEY-----"
    assert redact(f"x\n{key}\ny") == "x\n[private-key removed]\ny"


def test_values_of_variables_named_like_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DB_PASS", "GH_PAT", "WANDB_KEY", "MINHA_SENHA", "SMTP_PASSPHRASE")
    for number, name in enumerate(names):
        monkeypatch.setenv(name, f"segredoMuito{number}")
    redaction._environment_secrets.cache_clear()
    try:
        for number, name in enumerate(names):
            kinds = [one.kind for one in find_secrets(f"x segredoMuito{number} y")]
            assert kinds == [f"value-of-{name}"]
    finally:
        monkeypatch.undo()
        redaction._environment_secrets.cache_clear()


def test_a_private_key_is_removed_whole() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{'MIIabc12' * 10}\n-----END PRIVATE KEY-----"
    assert redact(f"x\n{key}\ny") == "x\n[private-key removed]\ny"


def test_secrets_are_found_by_their_form() -> None:
    for kind, secret in SECRETS.items():
        if kind.split(", ")[0] in ("hub token", "cloud key", "github token", "api key"):
            assert [text for text in (redact(f"x {secret} y"),) if secret in text] == []
    assert list(find_secrets("um texto comum, https://example.org/a:b e sk-curto")) == []
    assert list(find_secrets("veja https://user:password@example.org")) == []  # a manual's example


def test_folders_of_a_person_are_found() -> None:
    assert list(find_personal_folders(r"C:\Users\ana\x and /Users/bia/y")) == [
        r"C:\Users\ana",
        "/Users/bia",
    ]
    assert redact("/home/ana/x", for_others=True) == "/home/[user]/x"
    assert redact("/home/ana/x") == "/home/ana/x"  # a path on this machine still works here


@pytest.mark.parametrize(
    "text",
    (
        "https://example.org/home/ana",
        "https://example.org/users/ana/repos",
        "texts/users/ana.txt",
        "./home/ana",
        "a/home/ana",
    ),
)
def test_addresses_and_relative_paths_name_no_person(text: str) -> None:
    assert list(find_personal_folders(f"veja {text} aqui")) == []


@pytest.mark.parametrize(
    "path",
    (
        "/mnt/c/Users/ana",
        "/c/Users/ana",
        "/var/home/ana",
        "/export/home/ana",
        "/usr/home/ana",
        "/media/ana",
        "/run/media/ana",
        "/mnt/dados/home/ana",
        "/Volumes/Backup/Users/ana",
        "C:/Users/ana",
        r"\\wsl$\Ubuntu\home\ana",
        r"C:\Documents and Settings\ana",
        "/gpfs/users/ana",
        "/lustre/home/ana",
        "/cluster/lab-2/home/ana",
        "/nethome/ana",
        "/System/Volumes/Data/Users/ana",
        "/cygdrive/c/Users/ana",
        "/dbfs/Users/ana@example.org",
        "file:///home/ana",
        "%2Fhome%2Fana",
        r"\\servidor\Users\ana",
    ),
)
def test_folders_of_a_person_on_many_systems(path: str) -> None:
    assert list(find_personal_folders(f"read {path}/x.txt")) == [path]
    assert "ana" not in redact(f"read {path}/x.txt", for_others=True)
