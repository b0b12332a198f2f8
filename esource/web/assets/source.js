// The rows of a channel, read in parts. A *mark* is where one stands: {offset, place, id}.
//
//     Ranges   all rows of a channel that has its beginning: bytes from an offset to another
//     Places   rows of one type, or of a channel whose beginning was removed, where there are no
//              ranges: rows between two places of the hub (`@…`), which it finds by itself
//
// Both return {bytes, start} of rows before a mark and {bytes, end} of those behind one. They hold
// whole rows, or nothing: where a row is larger than what was asked for, and at the first and last
// one (`isFirst`, `isLast`).

import * as hub from './hub.js'

const LF = 10
const ROW_BYTES = 200 // what a row may have, until that is known
const MOST_ROWS = 1 << 20

// Return the source of a channel's events: of one type, or of all if that is undefined.
export async function sourceOf(channel, type) {
  const { bytes, isTrimmed } = await hub.end(channel)
  if (type === undefined && !isTrimmed) return new Ranges(channel, { offset: bytes })
  const [begin, end] = await Promise.all([
    hub.place(channel, [['after', '']]),
    hub.place(channel, [['tail', 0]]),
  ])
  return new Places(channel, type, begin, end)
}

// Return a source that another one has made plain (`plain`), in a worker.
export function sourceFrom({ channel, type, begin, end }) {
  return begin ? new Places(channel, type, begin, end) : new Ranges(channel, end)
}

class Ranges {
  constructor(channel, end) {
    Object.assign(this, { channel, end, first: 0, isRanged: true })
  }

  get plain() {
    return { channel: this.channel, end: this.end }
  }

  async before({ offset }, size) {
    const from = Math.max(0, offset - size)
    const bytes = await hub.range(this.channel, from, offset)
    if (bytes.length && bytes.at(-1) !== LF) throw new Error('The channel is another one now.')
    const start = from && bytes.indexOf(LF) + 1
    return { bytes: bytes.subarray(start), start: { offset: from + start } }
  }

  async after({ offset }, size) {
    const { bytes: last } = await hub.end(this.channel)
    const to = Math.min(last, offset + size)
    const bytes = await hub.range(this.channel, offset, to)
    const length = to === last ? bytes.length : bytes.lastIndexOf(LF) + 1
    const end = { offset: offset + length, isLast: to === last }
    return { bytes: bytes.subarray(0, length), end }
  }

  // Return how far it goes, how much of it is kept, and the newest id.
  async measure() {
    const { bytes, id, isTrimmed } = await hub.end(this.channel)
    return { end: bytes, kept: bytes, id, isOther: isTrimmed }
  }
}

class Places {
  constructor(channel, type, begin, end) {
    Object.assign(this, { channel, type, begin, end, first: begin.offset, isRanged: false })
    this.rowBytes = ROW_BYTES
  }

  get plain() {
    const { channel, type, begin, end } = this
    return { channel, type, begin, end }
  }

  rows(size) {
    return Math.min(MOST_ROWS, Math.max(1, Math.round(size / this.rowBytes)))
  }

  async before(mark, size) {
    if (mark.offset <= this.first) return { bytes: new Uint8Array(), start: mark }
    const rows = this.rows(size)
    const { place: to } = await this.placed(mark)
    const parameters = [['event', this.type], ['tail', rows], ['before', to]]
    const start = await hub.place(this.channel, parameters)
    const bytes = await hub.rows(this.channel, this.type, [['after', start.place], ['before', to]])
    this.learn(bytes, rows)
    return { bytes, start }
  }

  async after(mark, size) {
    const rows = this.rows(size)
    const { place } = await this.placed(mark)
    const bytes = await hub.rows(this.channel, this.type, [['after', place], ['limit', rows]])
    let count = 0
    for (const byte of bytes) count += byte === LF
    this.learn(bytes, rows)
    const row = bytes.subarray(bytes.lastIndexOf(LF, -2) + 1)
    const id = new TextDecoder().decode(row.subarray(0, row.indexOf(9)))
    return { bytes, end: { offset: mark.offset + bytes.length, id, isLast: count < rows } }
  }

  learn(bytes, rows) {
    if (bytes.length) this.rowBytes = Math.max(16, (this.rowBytes + bytes.length / rows) / 2)
  }

  // Return the mark with its place. Which that is the hub says, of the event before it.
  async placed(mark) {
    if (mark.place) return mark
    const { place, offset } = await hub.place(this.channel, [['after', mark.id]])
    if (offset !== mark.offset) throw new Error('The ids here are not unique.')
    return { place, offset }
  }

  async measure() {
    const [{ bytes: kept, id }, { offset: end }] = await Promise.all([
      hub.end(this.channel),
      hub.place(this.channel, [['tail', 0]]),
    ])
    return { end, kept, id, isOther: false }
  }
}
