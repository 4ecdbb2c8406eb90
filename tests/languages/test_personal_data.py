"""Personal data is replaced by marks, and other text stays."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from teenytinyllama.languages.personal_data import PersonalData, is_cnpj, is_cpf


def marked(text: str) -> str:
    return PersonalData("pt").replace(text, Counter())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Escreva a ana.b+c@x-y.com.br.", "Escreva a [E-MAIL]."),
        ("CPF 529.982.247-25, ou 52998224725;", "CPF [CPF], ou [CPF];"),
        ("CNPJ 11.222.333/0001-81 e 11222333000181", "CNPJ [CNPJ] e [CNPJ]"),
        ("novo CNPJ 12.ABC.345/01DE-35.", "novo CNPJ [CNPJ]."),
        ("CEP 01310-100 e 01.310-100", "CEP [CEP] e [CEP]"),
        ("ligue (11) 98765-4321 ou +55 21 3456-7890", "ligue [TELEFONE] ou [TELEFONE]"),
        ("+5511987654321, 98765-4321", "[TELEFONE], [TELEFONE]"),
        ("cartão 4111 1111 1111 1111", "cartão [CARTÃO]"),
        ("veio de 200.147.67.142 ontem", "veio de [IP] ontem"),
        ("de 2804:14d:1:2:3:4:5:6.", "de [IP]."),
        ("de 2001:4860:4860::8888", "de [IP]"),
        ("发送至邮箱nets1@example.com联系我们", "发送至邮箱[E-MAIL]联系我们"),
        ("メールはana@x.co.jpまで", "メールは[E-MAIL]まで"),
        ("อีเมลana@example.comครับ", "อีเมล[E-MAIL]ครับ"),
        ("de joão.silva@x.com.br e иван@example.com", "de [E-MAIL] e [E-MAIL]"),
        ("host<br>40.69.69.27<br>52.174.26.23", "host<br>[IP]<br>[IP]"),
    ],
)
def test_personal_data_is_replaced(text: str, expected: str) -> None:
    assert marked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "CPF 529.982.247-24 tem dígito errado, e 111.111.111-11 não vale",
        "CNPJ 11.222.333/0001-82",
        "a Lei nº 10.406, de 10 de janeiro de 2002, art. 1.228",
        "processo 0001234-56.2020.8.26.0100",
        "às 12:34:56, na versão 8.8.8.8 de 127.0.0.1 e 192.168.0.1",
        "4111 1111 1111 1112 não é cartão; 1234567890123456 tampouco",
        "de 1990-1995, p. 123-145, ISBN 978-85-359-0277-5",
        "o telefone (20) 98765-4321 tem área que não existe",
        "std::vector<int> e ::before não são endereços; @decorador também não",
        "Conforme o item 5.2.1.3 do edital e o anexo 9.1.4.2, seção 40.50.1.2",
        "texto.\n4.4.33.1. Uma secção\n## 12.6.2.40 Outra",
        "A::B, dead::beef, imgs[1::2], ff02::1 e 224.0.0.251",
        "na versão 2.16.840.1 e Xamarin 3.1.228.0",
        "icon@2x.png, getty@tty1.service, x@self.weight(3), ftp://user:pass@host.com/a",
        "3.14159265358979 e 1e-12345678",
        "git clone git@github.com:ana/raposa.git",
    ],
)
def test_similar_text_is_left_alone(text: str) -> None:
    assert marked(text) == text


def cpf_of(random_: random.Random) -> str:
    digits = [random_.randrange(10) for _ in range(9)]
    for size in (9, 10):
        digits.append(sum(n * (size + 1 - k) for k, n in enumerate(digits)) * 10 % 11 % 10)
    text = "".join(map(str, digits))
    return random_.choice([text, f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"])


def test_valid_numbers_are_found_and_few_invalid_ones() -> None:
    rng = random.Random(0)
    true = [cpf_of(rng) for _ in range(500)]
    assert all(is_cpf(number) for number in true)
    assert all(marked(f"o CPF {number}, dele") == "o CPF [CPF], dele" for number in true)
    false = [f"{rng.randrange(10**11):011d}" for _ in range(2000)]
    assert 5 <= sum(is_cpf(number) for number in false) <= 40
    assert sum(is_cnpj(f"{rng.randrange(10**14):014d}") for _ in range(2000)) <= 40


def test_personal_data_of_galicia_and_bengal() -> None:
    found: Counter[str] = Counter()
    text = "DNI 12345678Z, tel. +34 981 123 456; 12345678A e 981 123 456 habitantes."
    assert PersonalData("gl").replace(text, found) == (
        "DNI [DNI], tel. [TELÉFONO]; 12345678A e 981 123 456 habitantes."
    )
    text = "ফোন ০১৭১২-৩৪৫৬৭৮ বা +880 1712-345678, ১৯৭১ সালে।"
    assert PersonalData("bn").replace(text, found) == "ফোন [ফোন] বা [ফোন], ১৯৭১ সালে।"
    assert found == {"dni": 1, "phone": 3}


def test_kinds_include_secrets_of_any_form() -> None:
    finder = PersonalData("pt")
    assert finder.kinds_in("chave AKIAABCDEFGHIJKLMNOP de ana@x.com.br") == {"secret", "email"}
    assert finder.kinds_in("chave glpat-" + "a1_-" * 5) == {"secret"}
    assert finder.kinds_in("nada aqui") == set()
