// What a channel held before: read backwards, in parts, each row once.
//
//     channel   [ ... not read yet | read ... ]
//                                  ^ this.unread, a mark     null: not known

import { eventsOf } from './rows.js'

const FIRST_BYTES = 1 << 16
const MOST_BYTES = 1 << 22 // of one part
const LOOK_BYTES = 1 << 23 // read in one go

export class History {
  // No answer counts any more once `signal` is aborted: what waits for one ends with an error then.
  constructor(source, signal) {
    Object.assign(this, { source, signal, unread: null })
  }

  // Whether nothing is left.
  get isAll() {
    return this.unread !== null && this.unread.offset <= this.source.first
  }

  // Return some last events before a mark, and where they begin: none if there are none near it.
  async last(end) {
    let [events, start] = [[], end]
    for (let size = FIRST_BYTES; !events.length && size <= LOOK_BYTES; size *= 8) {
      if (start.offset <= this.source.first) break
      ;[events, start] = await this.rows(start, size)
    }
    return { events, start }
  }

  // Read until `add` took enough events, or much was looked at. It gets events, and the mark at which
  // they begin, puts that into `unread`, and returns how many it took.
  async earlier(enough, add) {
    const stop = this.unread.offset - LOOK_BYTES
    let found = 0
    let count = FIRST_BYTES
    while (found < enough && !this.isAll && this.unread.offset > stop) {
      const to = this.unread
      const [events, start] = await this.rows(to, count)
      if (this.unread !== to) break // so much came meanwhile that the oldest made room
      if (start.offset === to.offset && count === MOST_BYTES) {
        throw new Error('An event here is too large.')
      }
      found += add(events, start)
      count = Math.min(count * 4, MOST_BYTES)
    }
  }

  // Return the events of about so many bytes before a mark, and where they begin. In the midst of a
  // long row they are none, and begin at the mark.
  async rows(mark, size) {
    const { bytes, start } = await this.source.before(mark, size)
    this.signal.throwIfAborted()
    return [eventsOf(bytes, this.source.type === undefined ? start.offset : null), start]
  }
}
