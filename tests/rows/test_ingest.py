"""Bodies of batches -> rows: SPEC, section 6, without a server."""

import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from esource.errors import BadInput, EsourceError, TooLarge
from esource.event import Event, micros_of
from esource.rows import formats, ingest, ndjson, tsv
from esource.rows.ingest import LineDecoder, StreamDecoder

LIMIT = 100  # bytes of an event's data
MORE_THAN_ANY_LINE = 6 * LIMIT + 10_000
FORMATS = ["tsv", "sse", "ndjson"]
LINES = ["tsv", "ndjson", "each=line"]
ALL = [*LINES, "sse"]


def decoder_of(name: str, limit: int = LIMIT) -> LineDecoder | StreamDecoder:
    decode = {
        "tsv": ingest.decode_tsv,
        "ndjson": ingest.decode_ndjson,
        "each=line": ingest.decode_each_line(b"log"),
        "bad=replace": ingest.decode_each_line(b"log", replaces=True),
    }
    return StreamDecoder(limit) if name == "sse" else LineDecoder(decode[name], limit)


class Decoded(NamedTuple):
    """What became of a body: rows, how many, how many of them without id, and what was wrong."""

    rows: bytes
    events: int
    without_id: int
    newest_micros: int | None
    error: str
    kind: type[EsourceError] | None


def decoded(name: str, pieces: Iterable[bytes], limit: int = LIMIT) -> Decoded:
    """Feed pieces as a server does: up to the first error, and then to the end."""
    decoder = decoder_of(name, limit)
    drafts = []
    for piece in pieces:
        drafts.append(decoder.feed(piece))
        if decoder.error:
            break
    else:
        drafts.append(decoder.end())
    return Decoded(
        b"".join(draft.rows for draft in drafts),
        sum(draft.events for draft in drafts),
        sum(draft.without_id for draft in drafts),
        max((d.newest_micros for d in drafts if d.newest_micros is not None), default=None),
        str(decoder.error or ""),
        type(decoder.error) if decoder.error else None,
    )


def bytes_of(body: bytes) -> list[bytes]:
    return [body[n : n + 1] for n in range(len(body))]


def cut(draw: st.DataObject, body: bytes) -> list[bytes]:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


# -- one table -------------------------------------------------------------------------------

# name, body, the rows it becomes
GOOD = [
    ("tsv", b"1\tt\tx\n\t\ty\n", b"1\tt\tx\n\t\ty\n"),
    ("tsv", b"1\t\tlast line without an end", b"1\t\tlast line without an end\n"),
    ("tsv", b"1\t\tin\x0blines\tand tabs \n", b"1\t\tin\x0blines\tand tabs \n"),
    ("tsv", b"1\t\tdos\r\n", b"1\t\tdos\r\n"),
    ("tsv", b"\t\t\n", b"\t\t\n"),
    ("tsv", b"\xef\xbb\xbf1\t\tx\n\xef\xbb\xbf2\t\ty", b"1\t\tx\n\xef\xbb\xbf2\t\ty\n"),
    ("tsv", b"", b""),
    ("ndjson", b'{"id":"1","event":"t","data":"x"}\n', b"1\tt\tx\n"),
    ("ndjson", b'{"data":"x"}\r\n\r\n\n  \n{"data":"y"}', b"\t\tx\n\t\ty\n"),
    ("ndjson", b'{"data":"a\\nb\\r\\nc\\u000a"}\n', b"\t\ta\x0bb\x0bc\x0b\n"),
    ("ndjson", b'{"data":{"a":[1,true,null]}}\n', b'\t\t{"a":[1,true,null]}\n'),
    ("ndjson", b'{"data":[1,\r2]}\n', b"\t\t[1,\x0b2]\n"),
    ("ndjson", b'{"data":7}\n{"data":null}\n{"data":""}\n', b"\t\t7\n\t\tnull\n\t\t\n"),
    ("ndjson", b'{"data":"x","id":null}\n{"data":"","id":7}\n', b"\t\tx\n7\t\t\n"),
    ("ndjson", b'{"data":"","id":-12345678901234567890}\n', b"-12345678901234567890\t\t\n"),
    ("ndjson", b'{"data":1,"id":"a","d\\u0061ta":2}\n', b"a\t\t2\n"),  # the last one counts
    ("ndjson", b'\xef\xbb\xbf{"data":"x"}\n', b"\t\tx\n"),
    ("ndjson", b"\xef\xbb\xbf", b""),
    ("ndjson", b'{"id":"\\u00e4","data":"\\ud83d\\udee9"}\n', "ä\t\t🛩\n".encode()),
    ("ndjson", b"", b""),
    ("each=line", b"a\nb\n", b"\tlog\ta\n\tlog\tb\n"),
    ("each=line", b"a\r\n\r\nb\r", b"\tlog\ta\n\tlog\t\n\tlog\tb\n"),
    ("each=line", b"\n\n", b"\tlog\t\n\tlog\t\n"),
    ("each=line", b"tab\there\nno end", b"\tlog\ttab\there\n\tlog\tno end\n"),
    ("each=line", b"\xef\xbb\xbfa\n", b"\tlog\ta\n"),
    ("each=line", b"\xef\xbb\xbfa", b"\tlog\ta\n"),
    ("each=line", b"\xef\xbb\xbf\n", b"\tlog\t\n"),
    ("each=line", b"\xef\xbb\xbf", b""),
    ("each=line", b"", b""),
    ("bad=replace", b"a\xffb\nc\0d\n\x0b", "\tlog\ta�b\n\tlog\tc�d\n\tlog\t�\n".encode()),
    ("bad=replace", b"\xc3\n\xa4\r\n\xc3", "\tlog\t�\n\tlog\t�\n\tlog\t�\n".encode()),
    ("bad=replace", b"\xe2\x82|\xf0\x9f\x98", "\tlog\t�|�\n".encode()),
    ("bad=replace", "grün\ta\rb\n".encode(), "\tlog\tgrün\ta\x0bb\n".encode()),
    ("bad=replace", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", "\tlog\ta\n\tlog\t\ufeffb\n".encode()),
    ("sse", b":\nevent: t\nid: 1\ndata: x\n\ndata: y\n\n", b"1\tt\tx\n\t\ty\n"),
    ("sse", b"data: a\ndata:\ndata: b\n\n", b"\t\ta\x0b\x0bb\n"),
    ("sse", b"id: 1\n\nretry: 10\n\ndata\n\n", b"\t\t\n"),
    ("sse", b"data: x\r\n\r\n:\r\n", b"\t\tx\n"),
    ("sse", b"data: x\n\nretry: 2150", b"\t\tx\n"),  # how a hub ends a stream when it stops
    ("sse", b"data: x\n\n:", b"\t\tx\n"),
    ("sse", b"\xef\xbb\xbfdata: x\n\n", b"\t\tx\n"),
    ("sse", b"", b""),
]


@pytest.mark.parametrize(("name", "body", "rows"), GOOD)
def test_a_body_becomes_rows_whole_and_byte_by_byte(name: str, body: bytes, rows: bytes) -> None:
    for pieces in ([body], bytes_of(body), [b"", body, b""]):
        result = decoded(name, pieces)
        assert (result.rows, result.error) == (rows, "")
        assert result.events == rows.count(b"\n")
        assert result.without_id == sum(row.startswith(b"\t") for row in rows.split(b"\n"))


# name, body, the rows before the bad line, the bad line's number, a word of what is wrong
BAD = [
    ("tsv", b"1\t\tx\nonly one\ttab\n2\t\ty\n", b"1\t\tx\n", 2, "TAB"),
    ("tsv", b"1\t\tx\n\n", b"1\t\tx\n", 2, "TAB"),
    ("tsv", b"no tab at the end", b"", 1, "TAB"),
    ("tsv", b"1\t\tx\n2\t\t\xff\n", b"1\t\tx\n", 2, "UTF-8"),
    ("tsv", b"1\t\tx\n2\t\ta\0b\n", b"1\t\tx\n", 2, "NUL"),
    ("tsv", b"1\t\tx\n 2\t\ty\n", b"1\t\tx\n", 2, "space"),
    ("tsv", b"1\t\tx\n2\r\t\ty\n", b"1\t\tx\n", 2, "control"),
    ("tsv", b"1\t\tx\n2\ta\x0bb\ty\n", b"1\t\tx\n", 2, "control"),
    ("tsv", b"1\t\tx\n" + b"i" * 1025 + b"\t\ty\n", b"1\t\tx\n", 2, "1024"),
    ("tsv", b"1\t\tx\n2\t" + b"e" * 257 + b"\ty\n", b"1\t\tx\n", 2, "256"),
    ("ndjson", b'{"data":"x"}\n{"data":"y"\n{}\n', b"\t\tx\n", 2, "JSON"),
    ("ndjson", b'{"data":"x"}\n\n[1]\n', b"\t\tx\n", 3, "object"),
    ("ndjson", b'"x"', b"", 1, "object"),
    ("ndjson", b'{"data":"","id":1.0}\n', b"", 1, "whole number"),
    ("ndjson", b'{"data":"","id":[]}\n', b"", 1, "whole number"),
    ("ndjson", b'{"data":"","id":%b}\n' % (b"1" * 9000), b"", 1, "1024"),
    ("ndjson", b'{"data":"","id":"%b"}\n' % (b"1" * 1025), b"", 1, "1024"),
    ("ndjson", b'{"data":"","event":"%b"}\n' % (b"e" * 257), b"", 1, "256"),
    ("ndjson", b'{"data":"","event":null}\n', b"", 1, "string"),
    ("ndjson", b'{"data":"","id":"a\\tb"}\n', b"", 1, "control"),
    ("ndjson", b'{"data":"","event":" t"}\n', b"", 1, "space"),
    ("ndjson", b'{"data":""}\n{"id":"1"}\n', b"\t\t\n", 2, 'no "data"; a line is {"id":'),
    ("ndjson", b'{"message":"x"}\n', b"", 1, 'unknown key "message"; a line is {"id":'),
    ("ndjson", b'{"data":"x","tag":1,"data":2}\n', b"", 1, 'unknown key "tag"; '),
    ("ndjson", b'{"a\\nb\\u001b`\xc2\x9b":1}\n', b"", 1, r'unknown key "a\nb\u001b`\u009b"; '),
    ("ndjson", b'{"%b":1}\n' % (b"k" * 9000), b"", 1, '"%s"; ' % ("k" * 40)),
    ("ndjson", b'{"data":NaN}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":["\\q"]}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":["\\udc00"]}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":01}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":[1,\x0b2]}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":1} {"data":2}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":' + b"[" * 9000 + b"]" * 9000 + b"}", b"", 1, "nested too deeply"),
    ("ndjson", b'{"data":"\\u0000"}\n', b"", 1, "NUL"),
    ("ndjson", b'{"data":"\\u000b"}\n', b"", 1, "VT"),
    ("ndjson", b'{"data":"\\ud800"}\n', b"", 1, "JSON"),
    ("ndjson", b'{"data":""}\n{"data":"\xff"}\n', b"\t\t\n", 2, "UTF-8"),
    ("ndjson", b'{"data":""}\n\xef\xbb\xbf{"data":""}\n', b"\t\t\n", 2, "JSON"),
    ("each=line", b"a\nb\xff\nc\n", b"\tlog\ta\n", 2, "UTF-8"),
    ("each=line", b"a\nb\n\0\n", b"\tlog\ta\n\tlog\tb\n", 3, "NUL"),
    ("each=line", b"a\n\nb\x0bc", b"\tlog\ta\n\tlog\t\n", 3, "VT"),
]


@pytest.mark.parametrize(("name", "body", "rows", "number", "word"), BAD)
def test_a_bad_line_is_named_and_what_was_good_before_it_is_returned(
    name: str, body: bytes, rows: bytes, number: int, word: str
) -> None:
    for pieces in ([body], bytes_of(body)):
        result = decoded(name, pieces, limit=20_000)
        assert result.rows == rows
        assert result.events == rows.count(b"\n")
        assert result.error.startswith(f"line {number}: ")
        assert word in result.error
        assert "\n" not in result.error
        assert result.kind is BadInput


# A frame has several lines, and each of them says where to look.
BAD_FRAMES = [
    (b"id: a\tb\ndata: x\n\n", "control"),
    (b"event: " + b"e" * 257 + b"\ndata: x\n\n", "256"),
    (b"id:  1\ndata: x\n\n", "space"),
    (b"data: \xff\n\n", "UTF-8"),
    (b"data: a\0b\n\n", "NUL"),
    (b"data: a\x0bb\n\n", "VT"),
]


@pytest.mark.parametrize(("frame", "word"), BAD_FRAMES)
def test_a_bad_frame_is_named_by_one_of_its_lines(frame: bytes, word: str) -> None:
    body = b":\ndata: good\n\n" + frame + b"data: after\n\n"
    for pieces in ([body], bytes_of(body)):
        result = decoded("sse", pieces)
        assert result.rows == b"\t\tgood\n"
        number = int(re.fullmatch(r"line (\d+): .*", result.error).group(1))  # type: ignore[union-attr]
        assert 4 <= number <= 3 + frame.count(b"\n")
        assert word in result.error
        assert result.kind is BadInput


# In one piece they are seen; in many the line's name is not in the first of them.


@pytest.mark.parametrize(
    "body",
    [
        b"data: x\n", b"id: 1\ndata: x\n:\n", b"data: a\n\ndata: x\n",
        pytest.param(b"data: x"), pytest.param(b"data"),
    ],
)  # fmt: skip
def test_an_event_that_no_blank_line_ends_is_an_error(body: bytes) -> None:
    good = b"\t\ta\n" if b"\n\n" in body else b""
    for pieces in ([body], bytes_of(body)):
        result = decoded("sse", pieces)
        assert result.rows == good
        assert "blank line" in result.error
        assert result.kind is BadInput


def test_an_event_that_has_no_line_end_at_all_is_in_line_1() -> None:
    assert decoded("sse", [b"data: x"]).error.startswith("line 1: ")


def test_a_frame_of_cr_line_ends_alone_is_ended_by_the_last_of_them() -> None:
    assert decoded("sse", [b"data: x\r\r"])[:2] == (b"\t\tx\n", 1)


def test_fields_that_are_utf8_only_together_are_not_utf8() -> None:
    for body in (b"id: \xc3\nevent: \xa4\ndata: x\n\n", b"event: \xc3\ndata: \xa4\n\n"):
        result = decoded("sse", [body])
        assert result.kind is BadInput
        assert "UTF-8" in result.error


# -- what a value that is not a string becomes -------------------------------------------------


@pytest.mark.parametrize("data", [b"0", b"-7", b"1.5", b"[]", b"{}", b"true", b'["a",{"b":null}]'])
def test_data_that_is_not_a_string_is_its_json_text(data: bytes) -> None:
    assert decoded("ndjson", [b'{"data":%b}\n' % data]).rows == b"\t\t%b\n" % data


@pytest.mark.parametrize("number", [b"1" * 100_000, b"[18446744073709551616]", b"-0", b"1E+400"])
def test_a_number_keeps_all_its_digits(number: bytes) -> None:
    result = decoded("ndjson", [b'{"data":%b}\n' % number], limit=100_000)
    assert result.rows == b"\t\t%b\n" % number


def test_json_that_is_nested_deeply_is_kept_or_refused() -> None:
    nested = b"[" * 400 + b"]" * 400
    result = decoded("ndjson", [b'{"data":%b}\n' % nested], limit=1000)
    assert result.rows == b"\t\t%b\n" % nested or result.kind is BadInput


# -- the limit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [500, 990, 1010, 1023, 1024, 100_000])
def test_json_of_any_depth_is_kept_or_refused(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    result = decoded("ndjson", [b'{"data":%b}\n' % data], limit=1 << 20)
    assert result.kind is BadInput if result.kind else result.rows == b"\t\t%b\n" % data


def body_of(name: str, data: bytes) -> bytes:
    return {
        "tsv": b"\t\t%b\n",
        "ndjson": b'{"data":"%b"}\n',
        "each=line": b"%b\n",
        "sse": b"data: %b\n\n",
    }[name] % data


@pytest.mark.parametrize("name", ALL)
def test_data_as_long_as_the_limit_is_good_and_longer_is_too_large(name: str) -> None:
    longest = body_of(name, b"x" * LIMIT)
    too_long = longest + body_of(name, b"x" * (LIMIT + 1)) + longest
    for body, error in ((longest, False), (too_long, True)):
        for pieces in ([body], bytes_of(body)):
            result = decoded(name, pieces)
            assert result.events == 1
            assert result.kind is (TooLarge if error else None)
            assert re.match(r"line [234]: .*100", result.error) or not error


@pytest.mark.parametrize("name", ALL)
def test_a_line_without_an_end_is_given_up_before_it_fills_the_memory(name: str) -> None:
    decoder = decoder_of(name)
    fed = 0
    while not decoder.error and fed < 10 * MORE_THAN_ANY_LINE:
        decoder.feed(b"x" * 1000)
        fed += 1000
    assert isinstance(decoder.error, TooLarge)
    assert fed <= MORE_THAN_ANY_LINE + 1000


def test_lines_of_data_without_data_count_too() -> None:
    decoder = decoder_of("sse")
    lines = 0
    while not decoder.error and lines < 10 * MORE_THAN_ANY_LINE:
        decoder.feed(b"data\n" * 100)
        lines += 100
    assert isinstance(decoder.error, TooLarge)
    assert lines <= MORE_THAN_ANY_LINE + 100


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_given_up_is_named_by_its_own_number(name: str) -> None:
    good = body_of(name, b"good")
    result = decoded(name, [good * 3 + b"x" * MORE_THAN_ANY_LINE])
    assert result.events == 3
    assert result.error.startswith("line 4: ")
    assert result.kind is TooLarge


@pytest.mark.parametrize("name", ALL)
def test_a_bad_line_before_one_without_an_end_is_the_one_that_is_named(name: str) -> None:
    body = body_of(name, b"good") + body_of(name, b"\xff") + b"x" * MORE_THAN_ANY_LINE
    result = decoded(name, [body])
    assert result.events == 1
    assert result.kind is BadInput
    assert "UTF-8" in result.error


@pytest.mark.parametrize(
    "name",
    [
        *LINES,
        pytest.param("sse"),
    ],
)
def test_a_line_in_tiny_pieces_costs_no_more_than_they_are(name: str) -> None:
    # Linear takes 20 ms, quadratic two seconds: of the loop, in which all others wait.
    decoder = decoder_of(name, limit=200_000)
    decoder.feed(body_of(name, b"x" * 150_000)[:-2])
    started = time.process_time()
    for _ in range(40_000):
        decoder.feed(b"x")
    assert time.process_time() - started < 0.5


# name, a body that takes a second if it is looked at before its lengths are
HEAVY = {
    "a million keys": ("ndjson", b"{%b}\n" % b",".join(b'"%d":1' % n for n in range(300_000))),
    "keys in the data": ("ndjson", b'{"data":{%b}}\n' % b",".join([b'"a":1'] * 600_000)),
    "keys again": ("ndjson", b"{%b}\n" % b",".join([b'"data":1'] * 600_000)),
    "a number": ("ndjson", b'{"data":"","id":%b}\n' % (b"1" * 3_000_000)),
    "an id of a row": ("tsv", b"%b\t\t\n" % ("ä" * 3_000_000).encode()),
    "an id of a line": ("ndjson", b'{"data":"","id":"%b"}\n' % (b"\\u00e4" * 500_000)),
    "an id of a frame": ("sse", b"id: %b\ndata: x\n\n" % ("ä" * 3_000_000).encode()),
}
FIELDS = [b"event: ", b"id: ", b"data: ", b"event: id: data: ", b"event: id\nid: "]


@pytest.mark.parametrize("name", HEAVY)
def test_what_is_too_long_is_not_looked_at_for_long(name: str) -> None:
    format, body = HEAVY[name]
    pieces = [body[n : n + 4096] for n in range(0, len(body), 4096)]
    began = time.process_time()
    assert decoded(format, pieces, limit=1 << 20).kind
    assert time.process_time() - began < 0.4  # quadratic, or by objects: seconds


@pytest.mark.parametrize("field", FIELDS)
def test_a_line_that_is_full_of_beginnings_is_looked_at_once(field: bytes) -> None:
    frame = b"data: x\n\n"
    body = frame + field * (60_000 // len(field)) + b"\n\n" + frame
    began = time.process_time()
    decoded("sse", [frame, body], limit=1 << 20)
    assert time.process_time() - began < 0.4  # from each of the beginnings to the end: seconds


# -- properties --------------------------------------------------------------------------------


def without_edge_spaces(text: str) -> bool:
    return text == text.strip()


texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
fields = texts.filter(without_edge_spaces)
awkward_ids = st.sampled_from(
    ["0", ":", "id: 1", "data:x", "a b", '"', "\\n", "{}", "\ufeff", "é", "null", "%09", "a\u2028b"]
)
ids = st.one_of(fields.filter(bool), awkward_ids, st.just("2017-04-05T11:40:10.793000Z"))
datas = st.text(
    st.one_of(
        st.sampled_from('\n\t :\x0c\x1c\x85\u2028\ufeff{}"\\'),
        st.characters(exclude_characters="\0\x0b\r", exclude_categories=["Cs"]),
    ),
    max_size=20,
)
events = st.builds(
    lambda id, type, data: Event(id.encode(), type.encode(), data.encode()), ids, fields, datas
)


def rows_of(many: list[Event]) -> bytes:
    return b"".join(map(tsv.encode, many))


@pytest.mark.parametrize("name", FORMATS)
@given(many=st.lists(events), draw=st.data())
def test_what_the_hub_emits_decodes_to_the_same_rows(
    name: str, many: list[Event], draw: st.DataObject
) -> None:
    rows = rows_of(many)
    assume(name != "tsv" or not rows.startswith(tsv.BOM))
    format = formats.FORMATS[name]
    malformed: list[bytes] = []
    body = format.head + format.encode(rows, malformed) + format.heartbeat
    assert not malformed
    result = decoded(name, cut(draw, body))
    assert result.error == ""
    assert result.rows == rows
    assert result.events == len(many)
    assert result.without_id == 0
    times = [micros for event in many if (micros := micros_of(event.id)) is not None]
    assert result.newest_micros == max(times, default=None)


@given(st.lists(datas.map(lambda data: data.replace("\n", "")), min_size=1), st.data())
def test_every_line_of_plain_text_is_the_data_of_one_event(
    lines: list[str], draw: st.DataObject
) -> None:
    body = "\n".join(lines).encode() + b"\n"
    result = decoded("each=line", cut(draw, body))
    assert result.error == ""
    expected = [Event(b"", b"log", line.encode()) for line in lines]
    assert list(tsv.decode(result.rows)) == expected
    assert result.without_id == result.events == len(lines)


def line(name: str, event: Event) -> bytes:
    """Return an event as a line, or frame, of a body."""
    if name == "each=line":
        return event.data.replace(b"\n", b"") + b"\n"
    return formats.FORMATS[name].encode(tsv.encode(event), [])


BAD_LINES: dict[str, Callable[[Event], bytes]] = {
    "tsv": lambda event: b"%b\t%b\n" % (event.id, event.type),
    "ndjson": lambda event: orjson.dumps(event.data.decode()) + b"\n",
    "each=line": lambda event: event.data.replace(b"\n", b"") + b"\xff\n",
}


@pytest.mark.parametrize("name", LINES)
@given(good=st.lists(events), bad=events, more=st.lists(events), draw=st.data())
def test_the_bad_line_is_found_wherever_it_is(
    name: str, good: list[Event], bad: Event, more: list[Event], draw: st.DataObject
) -> None:
    before = b"".join(line(name, event) for event in good)
    after = b"".join(line(name, event) for event in more)
    result = decoded(name, cut(draw, before + BAD_LINES[name](bad) + after))
    assert result.error.startswith(f"line {len(good) + 1}: ")
    expected = decoded(name, [before])
    assert expected.error == ""
    assert result[:4] == expected[:4]
    assert result.events == len(good)


@given(good=st.lists(events), more=st.lists(events), draw=st.data())
def test_the_bad_frame_is_found_wherever_it_is(
    good: list[Event], more: list[Event], draw: st.DataObject
) -> None:
    before = b"".join(line("sse", event) for event in good)
    after = b"".join(line("sse", event) for event in more)
    result = decoded("sse", cut(draw, before + b"id: a\x01b\ndata: bad\n\n" + after))
    number = int(result.error.removeprefix("line ").partition(":")[0])
    first = before.count(b"\n") + 1
    assert first <= number <= first + 2
    assert result.rows == rows_of(good)


# What people send is neither random bytes nor all good: it is made of pieces like these.
scraps = st.sampled_from(
    [
        b"\n", b"\r", b"\r\n", b"\t", b"\t\t", b"a", b" ", b"\x0b", b"\0", b"\xff", b"\xc3",
        b"\xa4", b"data", b"data: ", b"data: x\n\n", b"id: ", b"id: 1\n", b"event: t\n", b":\n",
        b"retry: 1", b"1\tt\tx\n", b"\t\tx\n", b"{}\n", b'{"data":1}\n', b'{"data":', b'"x"}\n',
        b'{"id":"1","data":"x"}\n', b'{"data":"\xc3\xa4"}\n', b'{"data":\n"x"}{"data":"y"}\n',
        b'{"data":"x"}{"data":"y"}\n', b'{"id":"@a-1","data":"x"}\n', b'{"event":" ","data":""}\n',
        b"event: t\nid: 1\ndata: x\n\n", b"data: \xc3\xa4\n\ndata:  y\n\n",
        b"id: @a-1\ndata: x\n\n", b"data: a\x0b\n\n", b"data: %b\n\n" % (b"x" * (LIMIT + 1)),
        b"\xef\xbb\xbf", b"x" * (LIMIT + 1),
    ]
)  # fmt: skip
bodies = st.lists(scraps, max_size=12).map(b"".join)


@pytest.mark.parametrize("name", [*ALL, "bad=replace"])
@given(body=bodies, draw=st.data())
@example(body=b"data: a\n\ndata: b", draw=None)
def test_any_body_decodes_alike_however_it_is_cut(
    name: str, body: bytes, draw: st.DataObject | None
) -> None:
    whole = decoded(name, [body])
    assert decoded(name, bytes_of(body)) == whole
    if draw:
        assert decoded(name, cut(draw, body)) == whole


def one_by_one(body: bytes) -> bytes | None:
    """Return the rows of lines of JSON, each decoded by itself; None if one of them is bad."""
    try:
        lines = [text for text in body.split(b"\n") if text and not text.isspace()]
        return b"".join([ndjson.decode_row(text, LIMIT) for text in lines if text.decode()])
    except (EsourceError, ValueError):
        return None


def assert_is_what_each_is(lines: bytes) -> None:
    expected = one_by_one(lines)
    result = decoded("ndjson", [lines])
    if expected is None:
        assert result.error
    else:
        assert (result.rows, result.error) == (expected, "")


@given(st.lists(scraps.filter(lambda scrap: scrap.startswith(b"{")), max_size=6).map(b"".join))
@example(b'{"data":"x"}\n{"id":"1","event":"t","data":"\xc3\xa4"}\n{"id":null,"data":""}\n')
@example(b'{"data":\n"x"}{"data":"y"}\n')
@example(b'\n{"data":"x"}{"data":"y"}\n')
@example(b'{"data":"x"}\n{"data":"y"}{"data":"z"}\n')
@example(b'{"data":"x"}\n{"id":"@a-1","data":"y"}\n')
@example(b'{"data":"x"}\n{"event":" t","data":"y"}\n')
@example(b'{"data":"x"}\n{"event":"%b","data":"y"}\n' % (b"t" * 257))
@example(b'{"data":"%b"}\n{"data":"x"}\n' % (b"x" * (LIMIT + 1)))
def test_many_lines_of_json_are_what_each_is(body: bytes) -> None:
    assume(body.endswith(b"\n"))
    assert_is_what_each_is(body)


ALIKE = [
    b'{"event": "t", "data": "%b"}', b'{"data":"%b","event":"t"}', b'{"data":"%b"}',
    b'{"data":"%b","event":"%%"}', b'{"event":"%b","data":"x"}', b'{"data":"x","event":"%b"}',
    b'{"data":"y","event":"t","data":"%b"}', b'{"id":null,"event":"","data":"%b"} ',
    b'{"id":"%b","data":"x"}', b'{"id":"7","data":"%b"}', b'{"event":"","data":"%b"}\r',
    b'{"data":"1","event":"%b"}', b'{"other":1,"data":"%b"}', b'{"event":" t","data":"%b"}',
    b'{"event":1,"data":"%b"}',
]  # fmt: skip
OTHERS = [
    b'{"event": "u", "data": "x"}', b'{"event": "t", "data": "x", "id": "1"}', b"", b" ",
    b'{"event": "t", "data": "x"}{"event": "t", "data": "y"}', b'{"event": "t", "data": "a\tb"}',
    b'{"event": "t", "data": "\xff"}', b'{"event": "t", "data": "a"b"}', b'{"event":"t","data":5}',
    b'{"event": "t", "data":\n"x"}', b'{"event": "t", "data": "x\ny"}', b'{"data":"x", "data":"y"}',
    b'{"event": "t", "data": "x\\ny"}', b' {"event": "t", "data": "x"}', b'{"data":"x"}',
    b'{"event": "t", "data": "x\x7f"}', b'"}', b'{"event": "t", "data": "', b'x"}', b'""',
    b'{"event": "t", "data": "%b"}' % (b"x" * (LIMIT + 1)),
]  # fmt: skip


@pytest.mark.parametrize("line", ALIKE)
@pytest.mark.parametrize("place", [0, 1, 200, 350])
def test_many_lines_of_json_that_differ_in_their_data_are_what_each_is(
    line: bytes, place: int
) -> None:
    texts = [b"1", b"data", b"", b"x", b"t", b"\xc3\xa4", b"x" * 20]
    for other in [[], *([each] for each in OTHERS)]:
        lines = [line % texts[n % len(texts)] for n in range(350)]
        lines[place:place] = other
        body = b"".join(each + b"\n" for each in lines)
        assert len(body) > ndjson.ALIKE_BYTES
        assert_is_what_each_is(body)


@pytest.mark.parametrize(
    "odd",
    [
        b"id: @a-1\ndata: x\n\n", b"event:  t\ndata: x\n\n", b"id: a\tb\ndata: x\n\n",
        b"event: %b\ndata: x\n\n" % (b"t" * 257), b"data: %b\n\n" % (b"x" * (LIMIT + 1)),
        b"data: a\x0bb\n\n", b"data: \xff\n\n", b"data: a\0b\n\n", b"data: x\revent: t\n\n",
        b"id: a\ndata: x\ndata: y\n\n", b"id: a\n\n", b":\ndata: x\n\n", b"data:x\n\n",
        b"id: 1\nevent: t\ndata: x\n\n", b"\n",
    ],
)  # fmt: skip
def test_an_odd_frame_among_plain_ones_is_what_it_is_byte_by_byte(odd: bytes) -> None:
    plain = b"data: x\n\nevent: t\nid: 1\ndata: \xc3\xa4\n\n"
    body = plain * 3 + odd + plain
    whole = decoded("sse", [body])
    assert whole == decoded("sse", bytes_of(body))
    assert {decoded("sse", [body[:n], body[n:]]) for n in range(len(body))} == {whole}
    assert whole.rows.startswith(b"\t\tx\n1\tt\t\xc3\xa4\n" * 3)


@pytest.mark.parametrize("byte", [b"\0", b"\x0b"])
@pytest.mark.parametrize(
    "plain",
    [b"data: x\n\n", b"data: x\n\nevent: t\nid: 1\ndata: \xc3\xa4\n\n"],
    ids=["alike", "not"],
)
def test_what_cannot_be_stored_is_refused_among_many_plain_frames(
    plain: bytes, byte: bytes
) -> None:
    result = decoded("sse", [plain * 50 + b"data: a%bb\n\n" % byte + plain])
    assert "the data holds a NUL or VT character" in result.error
    assert tsv.count(result.rows) == 50 * plain.count(b"data")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_frame_is_there_with_its_end_however_lines_end(end: bytes) -> None:
    decoder = StreamDecoder(LIMIT)
    frame = b"id: 1" + end + b"data: x" + end + end
    assert decoder.feed(frame).rows == b"1\t\tx\n"
    for cut in range(1, len(frame)):
        assert decoder.feed(frame[:cut]).rows == b""
        assert decoder.pending > 0
        assert decoder.feed(frame[cut:]).rows == b"1\t\tx\n"
        assert decoder.pending == 0
    assert decoder.end().rows == b""
    assert decoder.error is None


@pytest.mark.parametrize("beginning", [b"data: ", b"event: t\ndata: "])
@pytest.mark.parametrize(
    "odd",
    [
        b"data: y\n\n", b"data: \n\n", b"event: u\ndata: y\n\n", b"id: 1\ndata: y\n\n",
        b"data: y\ndata: z\n\n", b"data: y\n\n\n", b"event: t\ndata: y\n\n", b"event: t\n\n",
        b"data: event: t\n\n", b"data: y\nid: 1\n\n", b"data: \xff\n\n", b"retry: 1\n",
        b"event: t\nevent: t\ndata: y\n\n", b"event: t\ndata: data: y\n\n", b"data:y\n\n",
    ],
)  # fmt: skip
def test_an_odd_frame_among_many_that_begin_alike_is_what_it_is_byte_by_byte(
    beginning: bytes, odd: bytes
) -> None:
    alike = (beginning + b"x\n\n") * 3
    for body in (alike + odd + alike, odd + alike, alike + odd, alike):
        whole = decoded("sse", [b"data: first\n\n" + body])
        assert whole == decoded("sse", bytes_of(b"data: first\n\n" + body))
        # Between two pieces is between two frames, so that all of the second is looked at at once.
        assert whole == decoded("sse", [b"data: first\n\n", body])


@given(line=st.binary(max_size=LIMIT // 3).map(lambda line: line.translate(None, b"\r\n")))
def test_what_cannot_be_stored_of_a_line_is_replaced_and_all_else_stays(line: bytes) -> None:
    result = decoded("bad=replace", [b"first\n", line + b"\n"])
    text = line.decode(errors="replace").replace("\0", "�").replace("\x0b", "�")
    assert result.error == ""
    assert result.rows.decode() == f"\tlog\tfirst\n\tlog\t{text}\n"


def test_the_limit_of_an_event_counts_what_was_put_in() -> None:
    assert decoded("bad=replace", [b"\xff" * (LIMIT // 3)]).kind is None
    result = decoded("bad=replace", [b"good\n" + b"\xff" * (LIMIT // 3 + 1) + b"\nmore\n"])
    assert result.rows == b"\tlog\tgood\n"
    assert result.kind is TooLarge
    assert result.error.startswith("line 2: ")


@pytest.mark.parametrize("name", [*ALL, "bad=replace"])
@given(body=bodies, draw=st.data())
def test_what_is_returned_is_whole_rows_that_the_hub_can_keep(
    name: str, body: bytes, draw: st.DataObject
) -> None:
    result = decoded(name, cut(draw, body))
    assert result.rows.endswith(b"\n") or not result.rows
    assert result.rows.count(b"\n") == result.events
    result.rows.decode()
    assert b"\0" not in result.rows
    again = decoded("tsv", [result.rows])
    assert (again.rows, again.error) == (result.rows, "")
    assert again.without_id == result.without_id
