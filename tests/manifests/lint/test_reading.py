"""What the linter reads, and what it says about what it cannot."""

from __future__ import annotations

import pytest

from flts_ray.errors import ConfigError
from kuberay.lint.reading import read

pytestmark = pytest.mark.manifests


def test_documents_lists_and_empty_documents_are_read() -> None:
    rendering = read("kind: A\n---\n---\nkind: List\nitems: [{kind: B, metadata: {name: b}}, {kind: C}]\n")
    assert [str(found) for found in rendering.resources] == ["A/", "B/b", "C/"]


def test_a_key_given_twice_is_noted_wherever_it_is() -> None:
    rendering = read("kind: A\nspec:\n  - {a: 1}\n  - b: 1\n    b: 2\n")
    assert [(str(found), key) for found, key in rendering.duplicate_keys] == [("A/", "b (line 5)")]


def test_a_merged_key_may_be_set_again() -> None:
    assert read("kind: A\nx: &x {a: 1}\ny: {<<: *x, a: 2}\n").duplicate_keys == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no objects"),
        ("a: [", "not valid YAML"),
        ("just text", "document 1 is no Kubernetes object"),
        ("kind: A\n---\nmetadata: {}\n", "document 2 is no Kubernetes object"),
        ("kind: List\n", "document 1 is no Kubernetes object"),
        ("kind: List\nitems: [text]\n", "document 1 is no Kubernetes object"),
        ("kind: A\nspec: &x {a: *x}\n", "document 1 has an anchor that holds itself"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_source(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: {says}"):
        read(text, source="here")
