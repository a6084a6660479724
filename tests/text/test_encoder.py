"""What an encoder says of a text depends on the text alone."""

from __future__ import annotations

import numpy as np
import pytest

from befriend.text import encoder as encoding

TEXTS = [" ".join(["tea", "kettle", "river", "stone"][k % 4 :] * (1 + k // 4)) for k in range(40)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_has_the_same_bytes_whatever_is_read_with_it(side: str) -> None:
    encoder = encoding.load("random", 30)
    encoder.tokenizer.padding_side = side
    together = encoding.encode_all(encoder, TEXTS)
    for some in (slice(3, 4), slice(5, 30, 3), slice(None, None, -1)):
        assert np.array_equal(encoding.encode_all(encoder, TEXTS[some]), together[some])


def test_padding_says_nothing() -> None:
    encoder = encoding.load("random", 30)
    alone = [encoding.encode(encoder, encoding.tokens(encoder, [text])).detach().numpy()[0] for text in TEXTS]
    assert np.allclose(encoding.encode_all(encoder, TEXTS), alone, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 0.1  # the texts do differ
