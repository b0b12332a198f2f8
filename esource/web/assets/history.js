// What a channel's file held before: read backwards, in ranges of bytes, each row once.
//
//     file   [ ... not read yet | read ... ]
//                               ^ this.unread     null: not known, 0: nothing is left

import * as hub from './hub.js'
import { eventsOf } from './rows.js'

const LF = 10
const FIRST_BYTES = 1 << 16
const MOST_BYTES = 1 << 22 // of one request
const SEARCH_BYTES = 1 << 23 // read in one go while looking for events that are wanted

export class History {
  // No answer counts any more once `signal` is aborted: what waits for one ends with an error then.
  constructor(channel, signal) {
    Object.assign(this, { channel, signal, unread: null })
  }

  // Return the last events before an offset, and with them one that has an id, so that a stream can
  // go on after it; or none if there is no such event near the end. `start` is where they begin.
  async last(end) {
    let [events, start] = [[], end]
    const isAnyNamed = () => events.some(({ id }) => id)
    for (let count = FIRST_BYTES; start > 0 && !isAnyNamed() && count <= SEARCH_BYTES; count *= 8) {
      ;[events, start] = await this.rows(Math.max(0, end - count), end)
    }
    return isAnyNamed() ? { events, start } : { events: [], start: end && null }
  }

  // Read until `add` took enough events, or much was looked at. It gets events, and the offset at
  // which they begin, puts it into `unread`, and returns how many it took.
  async earlier(enough, add) {
    const stop = Math.max(0, this.unread - SEARCH_BYTES)
    let found = 0
    let count = FIRST_BYTES
    while (found < enough && this.unread > stop) {
      const to = this.unread
      const [events, start] = await this.rows(Math.max(0, to - count), to)
      if (this.unread !== to) break // so much came meanwhile that the oldest made room
      if (start === to && count === MOST_BYTES) throw new Error('An event here is too large.')
      found += add(events, start)
      count = Math.min(count * 4, MOST_BYTES)
    }
  }

  // Return the events of the file from an offset, or the end of the row there, up to another; and
  // where they begin. In the midst of a long row they are none, and begin at the end.
  async rows(from, to) {
    const bytes = await hub.range(this.channel, from, to)
    this.signal.throwIfAborted()
    if (bytes.length && bytes.at(-1) !== LF) throw new Error('The file is another one now.')
    const start = from && bytes.indexOf(LF) + 1
    return [eventsOf(bytes.subarray(start), from + start), from + start]
  }
}
