import pytest

from charnn.generation.stopping import Ending


def cut(kind, text, size=1):
    ending, shown = Ending(kind), []
    for start in range(0, len(text), size):
        shown.append(ending.push(text[start : start + size]))
        if ending.found:
            break
    return "".join(shown) + ending.flush(), ending.found


@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("sentence", "He left. She", ("He left.", True)),
        ("sentence", "It is 3.14 now! So", ("It is 3.14 now!", True)),
        ("sentence", 'He said "No!" and', ('He said "No!"', True)),
        ("sentence", "What?!… \nx", ("What?!…", True)),
        ("sentence", "... well. x", ("... well.", True)),
        ("sentence", "no end", ("no end", False)),
        ("sentence", "over.", ("over.", False)),
        ("sentence", "行。」次", ("行。」", True)),
        ("line", "one\ntwo", ("one", True)),
        ("line", "\n--\none\n", ("\n--\none", True)),
        ("line", "one", ("one", False)),
        ("paragraph", "one\ntwo\n\nthree", ("one\ntwo", True)),
        ("paragraph", "\n\none\n \t\r\ntwo", ("\n\none", True)),
        ("line", "one\r\ntwo", ("one", True)),
        ("line", "\r\none\rtwo\r", ("\r\none\rtwo\r", False)),
        ("paragraph", "one\r\ntwo\r\n\r\nthree", ("one\r\ntwo", True)),
        ("paragraph", "one\rtwo\r", ("one\rtwo\r", False)),
        ("paragraph", "one\n  two\n", ("one\n  two\n", False)),
    ],
)
def test_the_first_complete_unit_ends_the_text_however_it_is_cut_into_pieces(
    kind, text, expected, size
):
    assert expected == cut(kind, text, size)


def test_a_paragraph_is_held_back_only_where_it_may_have_ended():
    ending = Ending("paragraph")
    assert ["a", "", "\nb", "", "", "\n c"] == [ending.push(one) for one in "a\nb\n c"]
