// Rows that hold what is looked for, among many bytes of rows. Pure: it runs in a worker.

import { eventsOf } from './rows.js'

const LF = 10
const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

// Return the rows that hold a pattern, oldest first, as [{text, start}]; `start` is how many bytes
// of the rows are before it. At most so many: then the last ones.
export function found(bytes, pattern, most) {
  const text = decoder.decode(bytes)
  const regex = new RegExp(pattern.source, 'gi')
  const isAscii = text.length === bytes.length // so that characters are counted as bytes
  const rows = []
  let [counted, start] = [0, 0]
  for (let hit; (hit = regex.exec(text)); ) {
    const from = text.lastIndexOf('\n', hit.index) + 1
    const to = text.indexOf('\n', hit.index)
    start += isAscii ? from - counted : encoder.encode(text.slice(counted, from)).length
    counted = from
    rows.push({ text: text.slice(from, to), start })
    if (rows.length >= 2 * most) rows.splice(0, most)
    if (to < 0) break
    regex.lastIndex = to + 1
  }
  return rows.slice(-most)
}

// Return the events of such rows; `offset` is that of the bytes, or null if it is not known.
export function eventsOfFound(rows, offset) {
  return rows.flatMap(({ text, start }) => {
    return eventsOf(encoder.encode(text + '\n'), offset === null ? null : offset + start)
  })
}

// Return how many rows there are.
export function countRows(bytes) {
  let count = 0
  for (let at = 0; at < bytes.length; at++) if (bytes[at] === LF) count++
  return count
}
