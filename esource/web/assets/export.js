// What a view has, as a file: all events of a channel that it would show, in one of three forms.

import { blocksOf } from './blocks.js'
import * as hub from './hub.js'
import { eventsOf } from './rows.js'
import { holds, patternOf } from './text.js'

const encoder = new TextEncoder()
const FORMS = {
  tsv: { type: 'text/tab-separated-values', line: tsv },
  ndjson: { type: 'application/x-ndjson', line: ndjson },
  csv: { type: 'text/csv', line: csv, head: 'id,event,data\r\n' },
}

function tsv({ id, type, data }) {
  return [id, type, data.replaceAll('\n', '\v')].join('\t') + '\n'
}

function ndjson({ channel, id, type, data }) {
  return JSON.stringify({ channel, id, event: type, data }) + '\n'
}

// As RFC 4180 says.
function csv({ id, type, data }) {
  const fields = [id, type, data].map((field) => {
    return /[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field
  })
  return fields.join(',') + '\r\n'
}

// Return events as a file.
export function fileOf(events, form) {
  const { type, line, head = '' } = FORMS[form]
  return new Blob([head, ...events.map(line)], { type })
}

// Read all of a channel, of a type if there is one; return those events that hold a text as a file.
// `onProgress` gets how many bytes were read, and how many there are, or null. Blocks nothing for
// long: it works on what has arrived. Raises what `signal` is aborted with.
export async function fileOfChannel({ channel, type, text }, form, signal, onProgress) {
  const pattern = patternOf(text)
  const { line, head = '', type: mediaType } = FORMS[form]
  const { stream, length } = await hub.download(channel, type, signal)
  const parts = [head]
  let read = 0
  for await (const rows of blocksOf(stream)) {
    read += rows.length
    const events = eventsOf(rows, null).filter((event) => holds(event, pattern))
    parts.push(encoder.encode(events.map(line).join('')))
    if (parts.length > 256) parts.splice(0, parts.length, new Blob(parts)) // kept by the browser
    onProgress(read, length)
  }
  return new Blob(parts, { type: mediaType })
}
