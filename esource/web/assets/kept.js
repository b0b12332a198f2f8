// The events that the page holds: one run of the channel, oldest first, as far as memory allows.
//
//     file   [ ......... earlier ......... | first ... kept ... last | ... missed ... ]
//
// While the newest are shown, the oldest make room for them. While somebody reads further up,
// what they read stays, and newer events are only counted once the room is taken.

const MAX_EVENTS = 5000
const MAX_BYTES = 16 << 20
const SLACK = 1.2 // making room for one event at a time would move all others each time

export class Kept {
  constructor() {
    this.events = []
    this.first = 0 // the number of events[0]; earlier ones have smaller numbers
    this.bytes = 0
    this.missed = 0 // events after the last that are not kept
    this.dropped = undefined // the id of the event that was before the first
  }

  get end() {
    return this.first + this.events.length
  }

  at(number) {
    return this.events[number - this.first]
  }

  // Keep a newer event, if there is room for it or the oldest may go.
  add(event, mayDrop) {
    if (this.missed || (!mayDrop && this.isOver(1))) {
      this.missed++
      return
    }
    this.events.push(event)
    this.bytes += event.size
    if (mayDrop && this.isOver(SLACK)) this.dropOldest()
  }

  // Put earlier events in front; the newest make room.
  addEarlier(events) {
    this.events = events.concat(this.events)
    this.first -= events.length
    for (const { size } of events) this.bytes += size
    while (this.isOver(1) && this.events.length > events.length) {
      this.bytes -= this.events.pop().size
      this.missed++
    }
  }

  // Put later events behind; the oldest make room.
  addLater(events) {
    this.events = this.events.concat(events)
    for (const { size } of events) this.bytes += size
    if (this.isOver(1)) this.dropOldest()
  }

  dropOldest() {
    let count = 0
    while (this.isOver(1, count) && count < this.events.length - 1) {
      this.bytes -= this.events[count++].size
    }
    this.dropped = this.events.splice(0, count).at(-1)?.id ?? this.dropped
    this.first += count
  }

  isOver(factor, gone = 0) {
    return this.events.length - gone > MAX_EVENTS * factor || this.bytes > MAX_BYTES * factor
  }
}
