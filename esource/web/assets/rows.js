// The file's rows, as the hub reads them: id, tab, type, tab, data, LF; a line break in the
// data is a VT. An event of this page is {id, type, data, size, start}: how many bytes its row
// has, and at which offset that begins; null where that is not known.

const LF = 10
const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

// Return the events of whole rows that begin at an offset, if that is known, or null. Other rows are
// skipped.
export function eventsOf(bytes, offset) {
  const events = []
  for (let at = 0, next; at < bytes.length; at = next) {
    next = bytes.indexOf(LF, at) + 1 || bytes.length
    const row = decoder.decode(bytes.subarray(at, next - 1))
    const first = row.indexOf('\t')
    const second = row.indexOf('\t', first + 1)
    if (first < 0 || second < 0) continue
    events.push({
      id: row.slice(0, first),
      type: row.slice(first + 1, second),
      data: unfold(row.slice(second + 1)),
      size: next - at,
      start: offset === null ? null : offset + at,
    })
  }
  return events
}

// In rows from elsewhere a CR is a line break, too, but at the row's end it is nothing.
function unfold(data) {
  if (data.includes('\r')) data = data.replace(/\r$/, '').replace(/\r\n?/g, '\n')
  return data.replaceAll('\v', '\n')
}

// Return how many bytes the row of an event has.
export function sizeOf({ id, event, data }) {
  return encoder.encode(id + event + data).length + 3
}
