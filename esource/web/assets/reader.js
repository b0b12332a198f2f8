// A reader of a channel: its history, backwards, and its stream, from there on.
//
//     channel   [ ... not read | history, in parts | stream, by EventSource ... ]
//                              ^ history.unread    ^ this.begun              ^ this.position
//
// History is whole rows up to a place, and the stream begins there, so nothing is between them.
// Offsets of what is streamed are counted, so that more history can be read even after the oldest
// events have made room; by type, only some events come, so not then. Rows are counted from
// `begun` on, backwards below zero: a `curl` line says how many there are.
//
// A reader may begin elsewhere (`at`): then it reads on in both directions, and follows once it has
// got to the end.
//
//     channel   [ ... not read | read | not read ... ]
//                              ^ at   ^ this.later, a mark; null once there is nothing more

import { Follow } from './follow.js'
import { History } from './history.js'
import * as hub from './hub.js'
import { Kept } from './kept.js'
import { eventsOf, sizeOf } from './rows.js'
import { Search } from './search.js'
import { sourceOf } from './source.js'
import { holds, patternOf } from './text.js'

const NAME = /^[\w-]{4,64}$/
const PAGE = 200 // events, at least
const AT_ONCE = 2000 // and at most
const PART_BYTES = 1 << 18 // read at once further down
const LOOK_BYTES = 1 << 25 // looked through for a text without being asked
const MOST_BEHIND = 1 << 23 // bytes: more that came while nobody looked is not streamed
const AGAIN_SECONDS = 3

// Throw if there cannot be a channel of this name.
export function checkName(channel) {
  if (NAME.test(channel)) return
  const text = 'A channel’s name is 4 to 64 letters of A-Z a-z 0-9 _ -.'
  throw Object.assign(new Error(text), { status: 400 })
}

export class Reader {
  // Of events of a type, or of all if that is undefined, that hold a text; the types of whatever is
  // seen are added to `types`. From the newest on, or from {id}, an id or a time, or from {id: ''},
  // the beginning. `onEvent` is called for each event that comes, `onChange` when there is something
  // new to see, and `onAnew` when the channel can only be read anew, by another reader.
  constructor({ channel, type, text, at, types, isAsleep }, { onEvent, onChange, onAnew }) {
    Object.assign(this, { channel, channels: [channel], type, text, at, types })
    Object.assign(this, { onEvent, onChange, onAnew, pattern: patternOf(text) })
    this.visit = new AbortController()
    this.kept = new Kept()
    this.history = null // until it is known what there is
    this.follow = new Follow(channel, type, {
      onEvent: (event) => this.take(event),
      onState: (state) => this.enter(state),
      onAnew,
    })
    this.follow.isAsleep = isAsleep
    this.state = { name: 'connecting', since: Date.now() }
    this.begun = this.position = this.size = this.end = null // offsets; null while they are not known
    this.isExact = true // whether what was counted are the offsets in the file
    this.shrunk = 0 // how often in a row the file ended before them
    this.later = null
    this.come = 0 // events that came, whether or not they hold the text
    this.unreadRow = 0 // the number of the row at which what was looked at begins
    this.newestId = ''
    this.following = !at // the newest events are looked at, so the oldest may go
    this.loading = true
    this.searching = null
    this.failure = ''
    this.isRefused = false
  }

  // Read the end of the channel, and follow from there. What goes wrong is told as the state.
  async open() {
    try {
      checkName(this.channel)
      const source = await sourceOf(this.channel, this.type)
      this.visit.signal.throwIfAborted()
      this.history = new History(source, this.visit.signal)
      await (this.at ? this.beginAt(source) : this.begin(source))
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

  async begin({ end }) {
    const { events, start } = await this.history.last(end)
    this.begun = end.offset
    this.position = this.type === undefined ? end.offset : null
    this.newestId = events.at(-1)?.id ?? ''
    this.addEarlier(events, start)
    this.goLive(end)
    if (this.type !== undefined) this.learnTypes().catch(() => {}) // they are only offered
    if (this.pattern) this.search(LOOK_BYTES)
    else if (this.kept.events.length < PAGE) await this.readEarlier()
  }

  async beginAt({ end }) {
    const { id } = this.at
    const mark = await hub.place(this.channel, id ? [['before', id], ['tail', 0]] : [['after', '']])
    this.visit.signal.throwIfAborted()
    this.begun = end.offset
    this.history.unread = this.later = mark
    this.from = mark.offset
    this.loading = false
    this.enter({ name: 'past', since: Date.now() })
    await this.readLater()
    await this.readEarlier()
    this.measure().catch(() => {})
  }

  goLive(mark) {
    this.follow.open(mark)
    this.loading = false
    this.measure().catch(() => {}) // it is asked again
    this.onChange()
  }

  close() {
    this.visit.abort()
    this.follow.close()
    this.searching?.stop()
    clearTimeout(this.timer)
  }

  get isClosed() {
    return this.visit.signal.aborted
  }

  // -- what comes ----------------------------------------------------------------------------

  take({ id, event: type, data }) {
    const size = sizeOf({ id, event: type, data })
    const event = { id, type, data, size, start: this.position, row: this.come++ }
    if (this.position !== null) this.position += size
    this.newestId = id
    this.types.add(type)
    this.onEvent()
    if (!holds(event, this.pattern)) return
    const { first } = this.kept
    this.kept.add(event, this.following)
    if (this.kept.first > first) this.forgetOldest()
  }

  // After the oldest have made room: they can be read again, if it is known where they are.
  forgetOldest() {
    const { start: offset, row } = this.kept.events[0]
    const isKnown = this.isExact && offset !== null
    this.unreadRow = row
    this.history.unread = isKnown ? { offset, id: this.kept.dropped } : null
  }

  enter(state) {
    this.state = state
    this.onChange()
  }

  // How many bytes have not arrived here; null if that is not known.
  get behind() {
    if (this.end === null || this.position === null) return null
    return Math.max(0, this.end - this.position)
  }

  // Ask how large the channel is.
  async measure() {
    if (this.begun === null) return
    const { position } = this // more comes while the hub is asked
    const { end, kept, id, isOther } = await this.history.source.measure()
    if (this.isClosed) return
    const isStill = position === this.position && end === this.end
    this.end = end
    this.size = kept
    if (isOther && this.history.source.isRanged) return this.onAnew() // its beginning is gone
    if (position === null) return
    if (isStill && id && id === this.newestId && end > position) {
      this.position = end // rows that are no events do not come
      this.isExact = false
    }
    this.shrunk = this.isExact && end < position ? this.shrunk + 1 : 0
    if (this.shrunk > 2) this.onAnew() // moved away, and begun anew
  }

  // Nobody looks: let go of the stream.
  sleep() {
    this.slept = this.end
    this.follow.sleep()
  }

  // Go on where it was; or at the newest, if much has come meanwhile.
  async wake() {
    await this.measure().catch(() => {})
    if (this.isClosed) return
    if (this.following && this.end - (this.slept ?? this.end) > MOST_BEHIND) this.onAnew()
    else this.follow.wake()
  }

  // -- what was before, and what is behind ---------------------------------------------------

  isWanted(event) {
    return (this.type === undefined || event.type === this.type) && holds(event, this.pattern)
  }

  // Keep those of the events before the kept ones that are wanted, but not too many at once; return
  // how many. `start` is the mark where the events begin, and `count` how many rows they are of; of
  // some, each says how many are `behind` its beginning.
  addEarlier(events, start, count = events.length) {
    events.forEach((event, at) => {
      this.types.add(event.type)
      event.row = this.unreadRow - (event.behind ?? count - at)
    })
    const wanted = events.filter((event) => this.isWanted(event))
    const isRanged = this.history.source.isRanged
    const last = isRanged ? wanted.slice(-AT_ONCE) : wanted
    this.kept.addEarlier(last)
    const isPart = last.length < wanted.length
    this.history.unread = isPart ? { offset: last[0].start } : start
    this.unreadRow = isPart ? last[0].row : this.unreadRow - count
    if (this.later && this.kept.missed) {
      this.kept.missed = 0
      this.later = this.endOfKept()
    }
    return last.length
  }

  endOfKept() {
    const { start, size, id } = this.kept.events.at(-1)
    return { offset: start + size, id }
  }

  // Read some more of what is not read, if there is any, and if that is not going on already.
  async readEarlier() {
    if (!this.history?.unread || this.history.isAll) return
    if (this.pattern) return this.search(LOOK_BYTES)
    await this.load(() =>
      this.history.earlier(PAGE, (events, start) => this.addEarlier(events, start)),
    )
  }

  // Read some more of what is behind, and follow at the end.
  async readLater() {
    if (!this.later) return
    let last
    await this.load(async () => {
      const mark = this.later
      const { source } = this.history
      let part
      for (let size = PART_BYTES; ; size *= 8) {
        part = await source.after(mark, size)
        this.visit.signal.throwIfAborted()
        if (part.end.isLast || part.bytes.length || size > LOOK_BYTES) break // else a long row
      }
      const events = eventsOf(part.bytes, mark.offset)
      for (const event of events) this.types.add(event.type)
      this.newestId = events.at(-1)?.id ?? this.newestId
      const { first } = this.kept
      this.kept.addLater(events)
      if (this.kept.first > first) this.forgetOldest()
      this.later = part.end.isLast ? null : part.end
      last = part.end
    })
    if (this.later || this.failure || this.isClosed) return
    this.position = last.offset
    this.goLive(last)
  }

  // Do what reads, unless something is read already.
  async load(read) {
    if (this.loading) return
    this.loading = true
    this.failure = ''
    this.onChange()
    try {
      await read()
    } catch (error) {
      this.failure = error.message
    }
    this.loading = false
    this.onChange()
  }

  // Look for the text further back: in so many bytes, or in all that there are.
  search(least = Infinity) {
    const { source, unread } = this.history
    if (this.loading || !unread || this.history.isAll) return
    this.loading = true
    this.failure = ''
    let expected = unread
    this.searching = new Search(source, unread, this.text, least, {
      onPart: ({ events, start, count }) => {
        if (this.history.unread !== expected) return this.stopSearch() // the oldest made room
        this.addEarlier(events, start, count)
        expected = this.history.unread
        this.onChange()
      },
      onEnd: (failure) => {
        this.failure = failure
        this.stopSearch()
      },
    })
    this.onChange()
  }

  stopSearch() {
    this.searching?.stop()
    this.searching = null
    this.loading = false
    this.onChange()
  }

  async learnTypes() {
    const rows = await hub.rows(this.channel, undefined, [['tail', PAGE]])
    for (const { type } of eventsOf(rows, null)) this.types.add(type)
  }
}
