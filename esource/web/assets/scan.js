// Rows that hold what is looked for, among many bytes of rows. Pure: it runs in a worker.

import { eventsOf } from './rows.js'

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

// Look through whole rows for a pattern. Return {rows, count}: those that hold it, oldest first, as
// [{text, start, number}], where `start` is how many bytes are before it, and `number` how many
// rows; and how many rows there are. Of those that hold it not more than `most`, the last ones.
export function found(bytes, pattern, most) {
  const text = decoder.decode(bytes)
  const regex = new RegExp(pattern.source, 'gi')
  const isAscii = text.length === bytes.length // so that characters are counted as bytes
  const rows = []
  let [counted, start, number] = [0, 0, 0]
  const countTo = (end) => {
    for (; counted < end; number++) counted = text.indexOf('\n', counted) + 1
  }
  for (let hit; (hit = regex.exec(text)); ) {
    const [from, to] = [text.lastIndexOf('\n', hit.index) + 1, text.indexOf('\n', hit.index)]
    start += isAscii ? from - counted : encoder.encode(text.slice(counted, from)).length
    countTo(from)
    rows.push({ text: text.slice(from, to), start, number })
    if (rows.length >= 2 * most) rows.splice(0, most)
    regex.lastIndex = to + 1
  }
  countTo(text.length)
  return { rows: rows.slice(-most), count: number }
}

// Return the events of such rows, each with `behind`: how many of `count` rows are from it on. The
// offset is that of the first of these, or null if it is not known.
export function eventsOfFound(rows, count, offset) {
  return rows.flatMap(({ text, start, number }) => {
    const events = eventsOf(encoder.encode(text + '\n'), offset === null ? null : offset + start)
    return events.map((event) => ({ ...event, behind: count - number }))
  })
}
