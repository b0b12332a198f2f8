// A channel, followed with the browser's own EventSource, which comes back by itself.
//
//     connecting -> open <-> reconnecting      the browser does that
//          \         \_________/
//           `-> waiting                        the hub, or a gateway, gave another answer than a
//                 \-> connecting               stream: to the browser that is final, not to us
//     asleep -> connecting                     nobody looks: a browser has six connections to a hub,
//                                              and a tab that is hidden must not take one
//
// The stream begins after an id. The hub goes on after the *first* event that has it, and ids
// need not be unique; so what comes again then is counted here, and left out.

import { address } from './hub.js'

const PATIENCE_SECONDS = 10
const REMEMBERED_IDS = 10_000

export class Follow {
  // `onState` gets {name, since, until}, `onEvent` {id, event, data}. `onAnew` is called if the
  // last events come again and nobody can tell which: none of them has an id.
  constructor(channel, type, { onEvent, onState, onAnew }) {
    Object.assign(this, { channel, type, onEvent, onState, onAnew })
    this.lastId = ''
    this.count = 0 // of the events of this stream, up to the last
    this.firsts = new Map() // id -> the count at its first event
    this.repeated = 0 // how many events are still to come again
    this.isAsleep = false
    this.tail = null // from where it follows without an id, once it does
  }

  // Take note of an event that need not be streamed, since it is known already.
  note(id, type) {
    if (this.type === undefined || this.type === type) this.count++
    if (!id) return
    this.lastId = id
    if (this.firsts.has(id)) return
    this.firsts.set(id, this.count)
    if (this.firsts.size > REMEMBERED_IDS) this.firsts.delete(this.firsts.keys().next().value)
  }

  // Follow: after the last id that was noted, or with the last `tail` events if there is none.
  open(tail) {
    this.tail = tail
    if (this.isAsleep) this.state('asleep')
    else this.connect()
  }

  // Let go of the connection, and go on where it was once awake.
  sleep() {
    this.isAsleep = true
    this.end()
    if (this.tail !== null) this.state('asleep')
  }

  wake() {
    this.isAsleep = false
    if (this.tail !== null && !this.isClosed) this.connect()
  }

  connect() {
    const start = this.lastId ? ['after', this.lastId] : ['tail', this.tail]
    const url = address(this.channel, [['format', 'sse-json'], ['event', this.type], start])
    this.state('connecting')
    this.source = new EventSource(url)
    this.source.onopen = () => {
      if (!this.lastId && this.count) return this.onAnew()
      this.repeated = this.lastId ? this.count - (this.firsts.get(this.lastId) ?? this.count) : 0
      this.state('open')
    }
    this.source.onmessage = ({ data }) => this.take(JSON.parse(data))
    this.source.onerror = () => {
      if (this.source.readyState !== EventSource.CLOSED) {
        if (this.name !== 'reconnecting') this.state('reconnecting')
        return
      }
      this.state('waiting', PATIENCE_SECONDS)
      this.timer = setTimeout(() => this.connect(), PATIENCE_SECONDS * 1000)
    }
  }

  take(event) {
    if (this.repeated > 0) {
      this.repeated--
      return
    }
    this.note(event.id, event.event)
    this.onEvent(event)
  }

  state(name, seconds = 0) {
    this.name = name
    this.onState({ name, since: Date.now(), until: Date.now() + seconds * 1000 })
  }

  end() {
    clearTimeout(this.timer)
    this.source?.close()
  }

  close() {
    this.isClosed = true
    this.end()
    this.onState = () => {}
  }
}
