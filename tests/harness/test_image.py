from __future__ import annotations

import pytest

from tests.harness.image import find_image, image_env

pytestmark = pytest.mark.unit


def test_the_variables_of_our_image_are_those_of_its_dockerfile() -> None:
    text = 'FROM base AS build\nENV LOST=1\nFROM base\nARG ID\nENV A=1 \\\n    B="two words"\nRUN true\nENV C=${ID}\n'
    assert image_env(text, {"ID": "7"}) == {"A": "1", "B": "two words", "C": "7"}


def test_images_are_known_whatever_their_registry_and_tag() -> None:
    assert find_image("registry.example:5000/team/flts-ray:dev").user == 1000
    assert find_image("postgres:16.8-bookworm@sha256:00").cmd == ("postgres",)
    with pytest.raises(LookupError, match="in the place of nginx"):
        find_image("nginx:1")
