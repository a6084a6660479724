"""The vector of a text depends on the text only."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.text import text_encoder as encoding

pytestmark = pytest.mark.system  # importing the encoders of texts takes seconds

TEXTS = [" ".join(["tea", "kettle", "river", "stone"][k % 4 :] * (1 + k // 4)) for k in range(40)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_vector_of_a_text_does_not_depend_on_the_other_texts(side: str) -> None:
    encoder = encoding.load_encoder("random", 30)
    encoder.tokenizer.padding_side = side
    vectors = encoding.encode_all(encoder, TEXTS)
    for chosen in (slice(3, 4), slice(5, 30, 3), slice(None, None, -1)):
        assert np.array_equal(encoding.encode_all(encoder, TEXTS[chosen]), vectors[chosen])


def test_padding_changes_no_vector() -> None:
    encoder = encoding.load_encoder("random", 30)
    unpadded = [
        encoding.encode_batch(encoder, encoding.tokenize_texts(encoder, [text])).detach().numpy()[0] for text in TEXTS
    ]
    assert np.allclose(encoding.encode_all(encoder, TEXTS), unpadded, atol=1e-5)
    assert np.ptp(unpadded, axis=0).max() > 0.1  # the texts differ
