"""What a request's JSON body says, and edits that leave every other byte as it came."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.dialects import RequestBody, elements

NAMES = st.sampled_from(["model", "stream", "input", 'a"\\b', "", "é"]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """An object as somebody may write one: white space, escapes, and names that are there twice."""

    def space() -> str:
        return draw(SPACE)

    def encoded(value: object) -> str:
        return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1)))

    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    members = [f"{space()}{encoded(name)}{space()}:{space()}{encoded(value)}{space()}" for name, value in pairs]
    return f"{space()}{{{','.join(members) or space()}}}{space()}".encode(errors="replace")


def parsed(body: bytes) -> RequestBody:
    """The body, which is an object."""
    found = RequestBody.parse(body)
    assert found is not None
    return found


def _reader(body: bytes) -> object:
    def refuse(word: str) -> object:
        raise ValueError(word)

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None


@given(bodies())
def test_a_body_says_what_a_reader_of_json_reads(body: bytes) -> None:
    """Each member has the value that json.loads gives it; the last of a name counts."""
    values = json.loads(body)
    found = parsed(body)
    assert {name: found.get(name) for name in values} == values
    assert {name: json.loads(found.raw(name) or b"") for name in values} == values


@given(st.binary(max_size=40) | st.text('{}[]",: \\ua1\n-.eEtruflsn', max_size=20).map(str.encode))
def test_what_is_no_object_gives_nothing(body: bytes) -> None:
    """Exactly what a strict reader takes for an object is one here."""
    assert (RequestBody.parse(body) is not None) == isinstance(_reader(body), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"a":1,}',
        b'{"a":1}x',
        b'{"a" 1}',
        b'{,"a":1}',
        b"{1:2}",
        b'{"a":NaN}',
        b'{"a":"\n"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' + b"9" * 5_000 + b"}",
    ],
)
def test_a_body_that_readers_disagree_on_gives_nothing(body: bytes) -> None:
    """Broken, too deep, not UTF-8: none of it is half understood."""
    assert RequestBody.parse(body) is None


@given(bodies(), st.dictionaries(NAMES, st.none() | VALUES.map(json.dumps).map(str.encode), max_size=3))
def test_an_edit_is_what_a_reader_would_have_changed(body: bytes, changes: dict[str, bytes | None]) -> None:
    """The edited body reads as the dictionary with the changes."""
    values = json.loads(body)
    for name, value in changes.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = json.loads(value)
    assert json.loads(parsed(body).edit(changes)) == values


@given(bodies(), VALUES)
def test_what_is_not_edited_is_not_written_anew(body: bytes, value: object) -> None:
    """The members of other names keep their bytes; there and back again is the same body."""
    found = parsed(body)
    others = {name for name in json.loads(body) if name != "model"}
    edited = parsed(found.replace(model=value))
    assert {name: edited.raw(name) for name in others} == {name: found.raw(name) for name in others}
    assert found.edit({}) is body
    if "model" not in found:
        assert edited.edit({"model": None}) == body


def test_every_member_of_a_name_is_edited() -> None:
    """A reader for whom the first one counts is told the same as one for whom the last does."""
    body = parsed(b'{"model":"a", "x" : 1e400 ,"mod\\u0065l":"b"}')
    assert body.model == "b"
    assert body.replace(model="c") == b'{"model":"c", "x" : 1e400 ,"mod\\u0065l":"c"}'
    assert body.edit({"model": None}) == b'{"x" : 1e400}'


@pytest.mark.parametrize(
    ("body", "without"),
    [
        (b'{ "previous_response_id" : "r" }', b"{  }"),
        (b'{"previous_response_id":"r", "a":1}', b'{"a":1}'),
        (b'{"a":1, "previous_response_id":"r", "b": 2}', b'{"a":1, "b": 2}'),
        (b'{"a":1,\n"previous_response_id":"r"\n}', b'{"a":1\n}'),
        (b'{"a":1}', b'{"a":1}'),
        (b"{}", b"{}"),
    ],
)
def test_a_removed_member_takes_its_comma_with_it(body: bytes, without: bytes) -> None:
    """Wherever it stands, what is left is an object."""
    assert parsed(body).edit({"previous_response_id": None}) == without


def test_what_was_not_there_is_added_at_the_end() -> None:
    """Behind the last member, and alone in an empty object."""
    assert parsed(b'{"a":1 }').replace(stream=True, model="m") == b'{"a":1,"stream":true,"model":"m" }'
    assert parsed(b" { }").replace(model=None) == b' {"model":null }'


def test_a_request_is_asked_for_what_is_routed_by() -> None:
    """Model, stream and chain; what has another type than it should is not there."""
    body = parsed(b'{"model":"m","stream":true,"previous_response_id":"r"}')
    assert (body.model, body.stream, body.previous_response_id) == ("m", True, "r")
    wrong = parsed(b'{"model":1,"stream":"true","previous_response_id":null}')
    assert (wrong.model, wrong.stream, wrong.previous_response_id) == (None, False, None)
    assert "model" in wrong
    assert "input" not in wrong
    assert wrong.get("input") is wrong.raw("input") is None


def test_a_body_does_not_show_what_it_says() -> None:
    """What a client wrote stands in no log by accident."""
    body = parsed(b'{"secret":"hunter2"}')
    assert "hunter2" not in repr(body)
    assert "secret" not in repr(body)
    assert bytes(body) == b'{"secret":"hunter2"}'


@given(st.lists(VALUES, max_size=5), SPACE)
def test_the_elements_of_an_array_are_its_bytes(values: list[object], space: str) -> None:
    """Each is what was written, without what stands around it."""
    texts = [json.dumps(value) for value in values]
    array = f"{space}[{space}{f'{space},{space}'.join(texts)}{space}]{space}".encode()
    assert elements(array) == [text.encode() for text in texts]


@pytest.mark.parametrize("array", [b"", b"{}", b"[1,]", b"[1 2]", b"[1]]", b'["a":1]', b"[" * 200_000, b"\xff"])
def test_what_is_no_array_has_no_elements(array: bytes) -> None:
    """Broken, or something else."""
    assert elements(array) is None
