// Several channels in one view: the last events of each, and those that come, in one stream, whose
// ids say where it stands in each of them, so that the browser goes on exactly there.

import { address } from './hub.js'
import { Kept } from './kept.js'
import { checkName } from './reader.js'
import { sizeOf } from './rows.js'
import { holds, patternOf } from './text.js'

const TAIL = 100
const PATIENCE_SECONDS = 10

export class Several {
  // As a `Reader` is made, but for several channels.
  constructor({ channels, type, text, types, isAsleep }, { onEvent, onChange }) {
    Object.assign(this, { channel: channels.join(','), channels, type, text, types })
    Object.assign(this, { onEvent, onChange, isAsleep, pattern: patternOf(text) })
    this.kept = new Kept()
    this.state = { name: 'connecting', since: Date.now() }
    this.cursor = '' // of the last event
    this.following = true
    this.failure = ''
    // There is no more of it than that (see `Reader`).
    Object.assign(this, { history: null, later: null, searching: null, size: null, behind: null })
    Object.assign(this, { tail: TAIL, loading: false, isRefused: false })
  }

  open() {
    try {
      this.channels.forEach(checkName)
    } catch (error) {
      this.failure = error.message
      this.isRefused = true
      this.enter('failed')
      return
    }
    if (this.isAsleep) this.enter('asleep')
    else this.connect()
  }

  connect() {
    const names = this.channels.map((channel) => ['channel', channel])
    const start = this.cursor ? ['after', this.cursor] : ['tail', TAIL]
    const parameters = [...names, ['format', 'sse-json'], ['event', this.type], start]
    this.enter('connecting')
    this.source = new EventSource(address('-/read', parameters))
    this.source.onopen = () => this.enter('open')
    this.source.onmessage = ({ data, lastEventId }) => {
      this.cursor = lastEventId
      this.take(JSON.parse(data))
    }
    this.source.onerror = () => {
      const isOver = this.source.readyState === EventSource.CLOSED
      if (isOver) this.timer = setTimeout(() => this.connect(), PATIENCE_SECONDS * 1000)
      this.enter(isOver ? 'waiting' : 'reconnecting', isOver ? PATIENCE_SECONDS : 0)
    }
  }

  take({ channel, event_id: id, event: type, data }) {
    const size = sizeOf({ id, event: type, data })
    const event = { channel, id, type, data, size, start: null }
    this.types.add(type)
    this.onEvent()
    if (holds(event, this.pattern)) this.kept.add(event, this.following)
  }

  enter(name, seconds = 0) {
    if (name === 'reconnecting' && this.state.name === name) return
    this.state = { name, since: Date.now(), until: Date.now() + seconds * 1000 }
    this.onChange()
  }

  sleep() {
    this.isAsleep = true
    this.close()
    this.enter('asleep')
  }

  wake() {
    this.isAsleep = false
    if (!this.isRefused) this.connect()
  }

  close() {
    clearTimeout(this.timer)
    this.source?.close()
  }

  async measure() {}
  async readEarlier() {}
  async readLater() {}
}
