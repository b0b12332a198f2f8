// A channel, followed with the browser's own EventSource, which comes back by itself.
//
//     connecting -> open <-> reconnecting      the browser does that
//          \         \_________/
//           `-> waiting                        the hub, or a gateway, gave another answer than a
//                 \-> connecting               stream: to the browser that is final, not to us
//     asleep -> connecting                     nobody looks: a browser has six connections to a hub,
//                                              and a tab that is hidden must not take one
//
// The stream begins at a place. A browser that comes back goes on after the id of the last event that
// had one, and the hub after the *first* event with that id, since ids need not be unique. So what
// comes again then is counted here, and left out. If the first one was before the stream, the hub
// would begin there: then all is read anew.

import * as hub from './hub.js'

const PATIENCE_SECONDS = 10
const REMEMBERED_IDS = 10_000

export class Follow {
  // `onState` gets {name, since, until}, `onEvent` {id, event, data}. `onAnew` is called if events
  // would come again and nobody can tell which.
  constructor(channel, type, { onEvent, onState, onAnew }) {
    Object.assign(this, { channel, type, onEvent, onState, onAnew })
    this.begin = null // the mark from which it follows, once it does
    this.lastId = '' // of the last event that had one
    this.count = 0 // of the events of this stream, up to the last
    this.firsts = new Map() // id -> the count at its first event
    this.repeated = 0 // how many events are still to come again
    this.held = null // events that came before it is known whether they come again
    this.isAsleep = false
  }

  // Follow from a mark that has a place.
  open(begin) {
    this.begin = begin
    if (this.isAsleep) this.state('asleep')
    else this.connect()
  }

  // Let go of the connection, and go on where it was once awake.
  sleep() {
    this.isAsleep = true
    this.end()
    if (this.begin) this.state('asleep')
  }

  wake() {
    this.isAsleep = false
    if (this.begin && !this.isClosed) this.connect()
  }

  connect() {
    // Without places within the stream (`prime`) the browser goes on after an event, or from here.
    const start = [['after', this.lastId || this.begin.place], ['prime', 0]]
    const url = hub.address(this.channel, [['format', 'sse-json'], ['event', this.type], ...start])
    this.state('connecting')
    const source = (this.source = new EventSource(url))
    source.onopen = () => this.opened(source)
    source.onmessage = ({ data }) => this.come(JSON.parse(data))
    source.onerror = () => {
      this.checking = null
      if (source.readyState !== EventSource.CLOSED) {
        if (this.name !== 'reconnecting') this.state('reconnecting')
        return
      }
      this.state('waiting', PATIENCE_SECONDS)
      this.timer = setTimeout(() => this.connect(), PATIENCE_SECONDS * 1000)
    }
  }

  // Find out what comes again, if anything can.
  async opened(source) {
    this.repeated = this.count
    this.held = null
    if (this.lastId) {
      const checking = (this.checking = {})
      this.held = []
      const after = await hub.place(this.channel, [['after', this.lastId]]).catch(() => null)
      if (checking !== this.checking || source !== this.source || this.isClosed) return
      const first = this.firsts.get(this.lastId)
      if (!after || after.offset <= this.begin.offset || first === undefined) return this.onAnew()
      this.repeated = this.count - first
    }
    this.state('open')
    const held = this.held ?? []
    this.held = null
    for (const event of held) this.take(event)
  }

  come(event) {
    if (this.held) this.held.push(event)
    else this.take(event)
  }

  take(event) {
    if (this.repeated > 0) {
      this.repeated--
      return
    }
    this.note(event.id)
    this.onEvent(event)
  }

  note(id) {
    this.count++
    if (!id) return
    this.lastId = id
    if (this.firsts.has(id)) return
    this.firsts.set(id, this.count)
    if (this.firsts.size > REMEMBERED_IDS) this.firsts.delete(this.firsts.keys().next().value)
  }

  state(name, seconds = 0) {
    this.name = name
    this.onState({ name, since: Date.now(), until: Date.now() + seconds * 1000 })
  }

  end() {
    this.checking = null
    clearTimeout(this.timer)
    this.source?.close()
  }

  close() {
    this.isClosed = true
    this.end()
    this.onState = () => {}
  }
}
