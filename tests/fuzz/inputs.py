"""What inputs are made of: wrong JSON, texts with control characters, numbers of all kinds."""

from hypothesis import strategies as st

from spectraldiff_runtime.untrusted import visible

# Texts that have ended programs before, and any others.
TEXTS = st.one_of(
    st.sampled_from(
        ["", "\x1b[2J", "[/]", "\ud800", "\u202e", "nan", "1e999", "-0", "9" * 400, "\0", "٣", "²", "\uff11"]
    ),
    st.text(max_size=30),
)
NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from([0, -1, 255, 256, 65535, 65536, 2**31, 2**63, 2**64, 10**24, 10**25, 1e39, 5e-324, -0.0]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def check_line(error: Exception) -> None:
    """Check that an error is one line of visible characters."""
    assert len(str(error).splitlines()) == 1
    assert visible(str(error)) == str(error)
