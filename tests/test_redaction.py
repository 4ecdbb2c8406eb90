"""Secrets and personal folders are found in text and removed from it."""

from __future__ import annotations

import pytest
from support.canaries import SECRETS

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
