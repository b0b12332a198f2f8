// A reader of a channel: its history, backwards from the file, and its stream, from there on.
//
//     file   [ ... not read | history, by Range | stream, by EventSource ... ]
//                           ^ history.unread    ^ this.begun              ^ this.position
//
// History is whole rows of the file up to an end, and the stream begins after the last id there,
// so nothing is between them. Offsets of what is streamed are counted, so that more history can
// be read even after the oldest events have made room; by type, only some events come, so not then.

import { Follow } from './follow.js'
import { History } from './history.js'
import * as hub from './hub.js'
import { Kept } from './kept.js'
import { holds, sizeOf } from './rows.js'

const NAME = /^[\w-]{4,64}$/
const PAGE = 200 // events, at least
const AT_ONCE = 2000 // and at most
const TAIL = 1000 // where a stream begins in a channel without ids
const AGAIN_SECONDS = 3

export class Reader {
  // Of events of a type, or of all if that is undefined, that hold a text; the types of whatever is
  // seen are added to `types`. `onEvent` is called for each event that comes, `onChange` when there
  // is something new to see, and `onAnew` when the file can only be read anew, by another reader.
  constructor({ channel, type, text, types }, { onEvent, onChange, onAnew }) {
    Object.assign(this, { channel, type, text: text.toLowerCase(), types })
    Object.assign(this, { onEvent, onChange, onAnew })
    this.visit = new AbortController()
    this.history = new History(channel, this.visit.signal)
    this.kept = new Kept()
    this.follow = new Follow(channel, type, {
      onEvent: (event) => this.take(event),
      onState: (state) => this.enter(state),
      onAnew,
    })
    this.state = { name: 'connecting', since: Date.now() }
    this.begun = this.position = this.size = null // offsets; null while they are not known
    this.isExact = true // whether what was counted are the offsets in the file
    this.shrunk = 0 // how often in a row the file ended before them
    this.following = true // the newest events are looked at, so the oldest may go
    this.loading = true
    this.failure = ''
    this.isRefused = false
  }

  // Read the end of the file, and follow from there. What goes wrong is told as the state.
  async open() {
    try {
      await this.begin()
    } catch (error) {
      if (this.isClosed) return
      this.failure = error.message
      this.isRefused = error.status === 400 // and would be each time
      this.loading = false
      this.enter({ name: 'failed', since: Date.now() })
      const isFinal = error.status >= 400 && error.status < 500 // such as a name that is none
      if (!isFinal) this.timer = setTimeout(this.onAnew, AGAIN_SECONDS * 1000)
    }
  }

  async begin() {
    if (!NAME.test(this.channel)) {
      const text = 'A channel’s name is 4 to 64 letters of A-Z a-z 0-9 _ -.'
      throw Object.assign(new Error(text), { status: 400 })
    }
    const { bytes: end } = await hub.end(this.channel)
    this.visit.signal.throwIfAborted()
    const { events, start } = await this.history.last(end)
    this.begun = end
    this.position = start === null || this.type !== undefined ? null : end
    for (const event of events) this.follow.note(event.id, event.type)
    this.addEarlier(events, start) // without an id to go on from, all come with the stream
    this.follow.open(TAIL)
    this.loading = false
    this.measure().catch(() => {}) // it is asked again
    this.onChange()
    if (this.kept.events.length < PAGE) await this.readEarlier()
  }

  close() {
    this.visit.abort()
    this.follow.close()
    clearTimeout(this.timer)
  }

  get isClosed() {
    return this.visit.signal.aborted
  }

  // -- what comes ----------------------------------------------------------------------------

  take({ id, event: type, data }) {
    const size = sizeOf({ id, event: type, data })
    const event = { id, type, data, size, start: this.position }
    if (this.position !== null) this.position += size
    this.types.add(type)
    if (!holds(event, this.text)) return
    const { first } = this.kept
    this.kept.add(event, this.following)
    if (this.kept.first > first) this.history.unread = this.isExact ? this.kept.events[0].start : null
    this.onEvent()
  }

  enter(state) {
    this.state = state
    this.onChange()
  }

  // How many bytes of the file have not arrived here; null if that is not known.
  get behind() {
    if (this.size === null || this.position === null) return null
    return Math.max(0, this.size - this.position)
  }

  // Ask how large the file is.
  async measure() {
    if (this.begun === null) return
    const end = await hub.end(this.channel)
    if (this.isClosed) return
    this.size = end.bytes
    if (this.position === null) return
    if (end.id && end.id === this.follow.lastId && end.bytes > this.position) {
      this.position = end.bytes // rows that are no events do not come
      this.isExact = false
    }
    this.shrunk = this.isExact && end.bytes < this.position ? this.shrunk + 1 : 0
    if (this.shrunk > 2) this.onAnew() // moved away, and begun anew
  }

  // -- what was before -----------------------------------------------------------------------

  // Keep those of the events before the kept ones that are wanted, but not too many at once; return
  // how many. `start` is where the events begin.
  addEarlier(events, start) {
    for (const { type } of events) this.types.add(type)
    const wanted = events.filter(
      (event) => (this.type === undefined || event.type === this.type) && holds(event, this.text),
    )
    const last = wanted.slice(-AT_ONCE)
    this.kept.addEarlier(last)
    this.history.unread = last.length < wanted.length ? last[0].start : start
    return last.length
  }

  // Read some more of what is not read, if there is any, and if that is not going on already.
  async readEarlier() {
    if (this.loading || !this.history.unread) return
    this.loading = true
    this.failure = ''
    this.onChange()
    try {
      await this.history.earlier(PAGE, (events, start) => this.addEarlier(events, start))
    } catch (error) {
      this.failure = error.message
    }
    this.loading = false
    this.onChange()
  }
}
