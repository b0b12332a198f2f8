// The rows of a channel, read in parts. A *mark* is where one stands: {offset, place, id}.
//
//     Ranges   all rows of a channel that has its beginning: bytes from an offset to another
//     Places   rows of one type, or of a channel whose beginning was removed, where there are no
//              ranges: rows between two places of the hub (`@…`), which it finds by itself
//
// Both return {bytes, start} of rows before a mark and {bytes, end} of those behind one. They hold
// whole rows, or nothing: where a row is larger than what was asked for, and behind the last one
// (`end.isLast`). A part, for a search, is {stream, from}: rows up to a mark as they arrive; with
// `isCut` the first is not whole, `start` is the mark where they begin, if that is known before they
// have arrived, and `length` how many bytes must arrive, if that is.
//
// Ids need not be unique, so a mark that was read at a place has that, and a stream begins at one.

import * as hub from './hub.js'

const LF = 10
const ROW_BYTES = 200 // what a row may have, until that is known
const MOST_ROWS = 1 << 20

// Return the source of a channel's events: of one type, or of all if that is undefined.
export async function sourceOf(channel, type) {
  const [{ isTrimmed }, end] = await Promise.all([hub.end(channel), endOf(channel)])
  if (type === undefined && !isTrimmed) return new Ranges(channel, end)
  return new Places(channel, type, await hub.place(channel, [['after', '']]), end)
}

// Return the mark behind the newest event.
function endOf(channel) {
  return hub.place(channel, [['tail', 0]])
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

  async part({ offset }, size) {
    const from = Math.max(0, offset - size)
    const stream = await hub.rangeStream(this.channel, from, offset)
    return { stream, from, length: offset - from, isCut: from > 0 }
  }

  learn() {} // it asks for bytes

  // Return the mark at an offset, which is so many rows before another mark.
  back(mark, offset) {
    return { offset }
  }

  async after({ offset }, size) {
    const last = await endOf(this.channel)
    const isLast = last.offset <= offset + size
    const bytes = await hub.range(this.channel, offset, isLast ? last.offset : offset + size)
    if (isLast) return { bytes, end: { ...last, isLast } }
    const length = bytes.lastIndexOf(LF) + 1
    return { bytes: bytes.subarray(0, length), end: { offset: offset + length, isLast } }
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
    const to = await this.placed(mark)
    const start = await this.back(to, undefined, rows)
    const bytes = await hub.rows(this.channel, this.type, between(start, to))
    this.learn(bytes.length, rows)
    return { bytes, start }
  }

  async part(mark, size) {
    const rows = this.rows(size)
    const to = await this.placed(mark)
    const start = await this.back(to, undefined, rows)
    const stream = await hub.rowsStream(this.channel, this.type, between(start, to))
    return { stream, from: start.offset, isCut: false, start }
  }

  async back(mark, offset, rows) {
    const { place } = await this.placed(mark)
    return hub.place(this.channel, [['event', this.type], ['tail', rows], ['before', place]])
  }

  // Of all types: views of one type do not begin elsewhere.
  async after(mark, size) {
    const rows = this.rows(size)
    const [last, from] = await Promise.all([endOf(this.channel), this.placed(mark)])
    const bytes = await hub.rows(this.channel, this.type, [...between(from, last), ['limit', rows]])
    let count = 0
    for (const byte of bytes) count += byte === LF
    this.learn(bytes.length, count)
    if (count < rows) return { bytes, end: { ...last, isLast: true } }
    const row = bytes.subarray(bytes.lastIndexOf(LF, -2) + 1)
    const id = new TextDecoder().decode(row.subarray(0, row.indexOf(9)))
    const end = { offset: from.offset + bytes.length, id, near: from.place, isLast: false }
    return { bytes, end }
  }

  // Take note of how much some rows were.
  learn(size, rows) {
    if (rows) this.rowBytes = Math.max(16, (this.rowBytes + size / rows) / 2)
  }

  // Return the mark with its place: one like those of its file, or else that behind the event whose
  // id it has. Whether it is there, the hub says.
  async placed(mark) {
    if (mark.place) return mark
    const like = (mark.near ?? this.end.place).replace(/\d+$/, mark.offset)
    for (const id of [like, mark.id]) {
      const found = id && (await hub.place(this.channel, [['after', id]]))
      if (found?.offset === mark.offset) return found
    }
    throw new Error('The ids here are not unique.')
  }

  async measure() {
    const [{ bytes: kept, id }, { offset: end }] = await Promise.all([
      hub.end(this.channel),
      endOf(this.channel),
    ])
    return { end, kept, id, isOther: false }
  }
}

function between({ place: from }, { place: to }) {
  return [['after', from], ['before', to]]
}
