"""What the hub takes and answers, for programs: OpenAPI 3.1. Pure.

It is made of the tables that the code itself goes by:

    parameters   the kinds in `query`, `publish` and `ops`
    formats      `rows.formats`
    statuses     `errors`, and what they say of themselves
    limits       the configuration

What has no table is here, and the tests hold it to a real hub: header fields, the shapes of JSON,
and which errors an operation may meet.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from esource import __version__, errors
from esource.config import Config
from esource.errors import EsourceError
from esource.hub.hub import NAME
from esource.hub.work import ClientLeft
from esource.rows.find import Verdict
from esource.rows.formats import FORMATS, JSON, MEDIA_TYPES, SSE, TSV, Format
from esource.web import publish, query
from esource.web.listing import Row
from esource.web.query import Kind

# Of JSON, as JSON Schema tells it; and a part of the document.
Schema: TypeAlias = dict[str, Any]
Content: TypeAlias = Mapping[str, Schema]  # shapes, by media type

# -- shapes --------------------------------------------------------------------------------

ANY: Schema = {}
STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MAYBE: Schema = {"type": ["string", "null"]}
OF_TYPES: dict[Any, Schema] = {str: STRING, int: COUNT, float: {"type": "number"}}


def array(items: Schema) -> Schema:
    """Return the shape of an array."""
    return {"type": "array", "items": items}


def object_of(properties: Mapping[str, Schema], *optional: str) -> Schema:
    """Return the shape of an object with these properties, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


EVENT = dict.fromkeys(("id", "event", "data"), STRING)
EVENT_OF = {**EVENT, "channel": STRING, "event_id": STRING}
APPENDED = object_of({"count": COUNT, "first": MAYBE, "last": MAYBE, "skipped": COUNT}, "skipped")
STATE = object_of({"status": STRING, "problems": array(STRING)})
PATHS: Schema = {"type": "object", "additionalProperties": STRING}
CHANNEL = object_of({name: OF_TYPES[type] for name, type in Row.__annotations__.items()})
CHANNELS = object_of({"channels": array(CHANNEL), "total": COUNT, "next": MAYBE})

# -- header fields -------------------------------------------------------------------------

READ_FIELDS = {
    "Last-Event-ID": "where the client has got to: wins over every parameter that says where to "
    "start",
    "If-None-Match": "the `ETag` of what is there already: `304` if it is the same",
}
CHANNEL_FIELDS = {
    **READ_FIELDS,
    "If-Modified-Since": "as `If-None-Match`, with the date of `Last-Modified`",
    "Range": "of the whole channel as TSV: one range of bytes",
    "If-Range": "the `ETag` of what the range continues",
    "Want-Repr-Digest": "of the whole channel as TSV: `sha-256=1`, for `Repr-Digest`",
}
PUBLISH_FIELDS = {
    "If-Match": "append only if this is the channel's `ETag`; `*`: if it has events",
    "If-None-Match": "append only if this is not the channel's `ETag`; `*`: if it has no events",
}
ANSWER_FIELDS: dict[str, tuple[str, Schema]] = {
    "Content-Range": ("which bytes of how many", STRING),
    "ETag": ("the version of the rows", STRING),
    "Esource-Resume": ("how the start was found", {"enum": [each.value for each in Verdict]}),
    "Last-Event-ID": ("the id of the last event", STRING),
    "Location": ("the page of the channel", STRING),
    "Repr-Digest": ("the SHA-256 of the whole channel, if it is known", STRING),
    "Retry-After": ("seconds, after which it may work", COUNT),
}
ROWS = ("ETag", "Esource-Resume", "Last-Event-ID")

# -- errors --------------------------------------------------------------------------------

ALL_ERRORS = (errors.BadInput, errors.Misdirected, errors.StorageError)
LIST_ERRORS = (*ALL_ERRORS, ClientLeft)
READ_ERRORS = (*LIST_ERRORS, errors.Busy)
CHANNEL_ERRORS = (*READ_ERRORS, errors.Missing, errors.BadRange)
PUBLISH_ERRORS = (
    *ALL_ERRORS, errors.Missing, errors.Busy, errors.Forbidden, errors.TooSlow, errors.TooLarge,
    errors.Unsupported, errors.PreconditionFailed, errors.Conflict, errors.StorageFull,
)  # fmt: skip
ERROR_FIELDS = {412: ("ETag",), 416: ("Content-Range",), 503: ("Retry-After",)}
# What is no `EsourceError`: the server's own, and a defect.
OTHER_ERRORS = {431: "The head of the request is too large.", 500: "The hub has failed."}


def _errors(raised: Iterable[type[EsourceError]]) -> dict[int, Schema]:
    texts: dict[int, list[str]] = {status: [text] for status, text in OTHER_ERRORS.items()}
    for error in raised:
        what = (error.__doc__ or "").partition("\n\n")[0]
        texts.setdefault(error.status, []).append(what)
    return {
        status: _answer(" ".join(words), {"text/plain": STRING}, *ERROR_FIELDS.get(status, ()))
        for status, words in texts.items()
    }


# -- operations ----------------------------------------------------------------------------


def document(config: Config, paths: Mapping[str, Schema], documentation: str | None) -> Schema:
    """Return all of it, with what `GET` of these paths does beside what a channel does.

    `documentation` is the address of what is there to read, if that is known.
    """
    name = {**STRING, "pattern": f"^{NAME.pattern}$"}
    channel = {
        "parameters": [{"name": "channel", "in": "path", "required": True, "schema": name}],
        "get": _read(),
        "post": _publish(config),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "esource",
            "summary": "An EventSource hub",
            "description": "HEAD is for every path that GET is for. A parameter that is not here "
            "is refused. Texts that go with a status of 400 or more are a line for a person.",
            "version": __version__,
            "license": {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        },
        **({"externalDocs": {"url": documentation}} if documentation else {}),
        "paths": {"/{channel}": channel, **{path: {"get": get} for path, get in paths.items()}},
    }


def of_list(
    name: str,
    what: str,
    kinds: Mapping[str, Kind[Any]],
    content: Content,
    statuses: Iterable[int] = (200,),
) -> Schema:
    """Return what the `GET` of a view does; with each of the statuses comes the content."""
    answers = {each: _answer(what, content, *ERROR_FIELDS.get(each, ())) for each in statuses}
    return _operation(name, what, kinds, {}, {**_errors(LIST_ERRORS), **answers})


def of_several(
    name: str, what: str, kinds: Mapping[str, Kind[Any]], formats: Iterable[Format]
) -> Schema:
    """Return what the `GET` of several channels does, in one of the formats."""
    return _operation(
        name, what, kinds, READ_FIELDS, {**_errors(READ_ERRORS), **_rows(EVENT_OF, formats, *ROWS)}
    )


def _read() -> Schema:
    text = {"text/plain": STRING}
    fields = (*ROWS, "Repr-Digest")
    answers = {
        **_rows(EVENT, FORMATS.values(), *fields),
        204: _answer("To an `EventSource`: the event of `until=` has come, it is over.", {}),
        206: _answer(
            "A part of the channel.", {_media_type(TSV): STRING}, *fields, "Content-Range"
        ),
        303: _answer("To a person's browser: the page is elsewhere.", text, "Location"),
    }
    what = "the events of a channel, up to now or as they come"
    refusals = _errors(CHANNEL_ERRORS)
    return _operation("read", what, query.READ_KINDS, CHANNEL_FIELDS, {**refusals, **answers})


def _rows(
    event: Mapping[str, Schema], formats: Iterable[Format], *fields: str
) -> dict[int, Schema]:
    # Of an event stream a shape could be that of the stream, or of an event: tools differ.
    shapes = {SSE.content_type: ANY, JSON.content_type: array(object_of(event))}
    content = {_media_type(each): shapes.get(each.content_type, STRING) for each in formats}
    return {
        200: _answer("The events, in a format.", content, *fields),
        304: _answer("Nothing is new.", {}, *fields),
    }


def _publish(config: Config) -> Schema:
    content = {"text/plain": STRING, "application/json": APPENDED}
    what = (
        "The id of an event; of a batch, or if JSON is preferred to text, how many were appended, "
        "and the first and last id."
    )
    answers = {
        201: _answer(what, content, "ETag", "Last-Event-ID"),
        200: _answer("All of it is there already (`unique=1`).", content, "ETag", "Last-Event-ID"),
    }
    batches = [kind for kind, format in MEDIA_TYPES.items() if format in publish.BATCHES]
    operation = _operation(
        "publish", "append an event, or a batch of them", publish.PARAMETERS, PUBLISH_FIELDS,
        {**_errors(PUBLISH_ERRORS), **answers},
    )  # fmt: skip
    operation["requestBody"] = {
        "description": f"A batch if it is of one of the types {', '.join(batches)}: up to "
        f"{config.max_batch_bytes} bytes, or chunked without a limit. Of any other type it is the "
        f"data of one event, up to {config.max_event_bytes} bytes.",
        "content": {kind: {"schema": STRING} for kind in (*batches, "text/plain", "*/*")},
    }
    return operation


def _operation(
    name: str, what: str, kinds: Mapping[str, Kind[Any]], fields: Mapping[str, str],
    answers: Mapping[int, Schema],
) -> Schema:  # fmt: skip
    return {
        "operationId": name,
        "summary": what,
        "parameters": [
            *(_parameter(each, kind) for each, kind in kinds.items()),
            *(
                {"name": each, "in": "header", "description": meaning, "schema": STRING}
                for each, meaning in fields.items()
            ),
        ],
        "responses": {str(status): answers[status] for status in sorted(answers)},
    }


def _parameter(name: str, kind: Kind[Any]) -> Schema:
    shape = {**STRING, **kind.shape}
    return {
        "name": name,
        "in": "query",
        "description": kind.meaning,
        "required": kind.required,
        "schema": array(shape) if kind.repeats else shape,
    }


def _answer(what: str, content: Content, *fields: str) -> Schema:
    answer: Schema = {"description": what}
    if fields:
        answer["headers"] = {
            name: {"description": ANSWER_FIELDS[name][0], "schema": ANSWER_FIELDS[name][1]}
            for name in fields
        }
    if content:
        answer["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    return answer


def _media_type(format: Format) -> str:
    return format.content_type.partition(";")[0]
