"""Bytes <-> events: what a row is, and how it is written in other formats. Pure.

    tsv       the row, which is what the file holds; the one room that knows of its two tabs
    sse       rows <-> event stream
    ndjson    rows <-> JSON
    formats   all formats of a read, by name and by media type
    ingest    the bodies of batches -> drafts: rows that may still lack an id
    find      where in rows a reader goes on, and which zones of a log can hold an id
    dedup     the last events of a log by id

    publish:  body -- ingest (tsv, sse, ndjson) --> draft -- tsv.stamp, dedup.new --> rows
    read:     find --> rows -- tsv.of_types, tsv.first --> rows -- formats --> body

*Rows* are always whole rows, each with its LF; a *draft* is such rows and what is known of them.
"""
