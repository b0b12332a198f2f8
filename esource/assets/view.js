// One channel: its history, read backwards from the file, and its stream, from there on.
//
//     file   [ ... not read | history, by Range | stream, by EventSource ... ]
//                           ^ history.unread    ^ this.begun              ^ this.position
//
// History is whole rows of the file up to an end, and the stream begins after the last id there,
// so nothing is between them. Offsets of what is streamed are counted, so that more history can
// be read even after the oldest events have made room; by type, only some events come, so not then.

import { Chart } from './chart.js'
import { LINE_TAIL, followLine, publishLine, rangeLine } from './curl.js'
import { $, bytes, make, number, rate, showLine, write } from './dom.js'
import { Follow } from './follow.js'
import { History } from './history.js'
import * as hub from './hub.js'
import { Kept } from './kept.js'
import { List } from './list.js'
import { holds, sizeOf } from './rows.js'
import { showState } from './state.js'

const NAME = /^[\w-]{4,64}$/
const PAGE = 200 // events, at least
const AT_ONCE = 2000 // and at most
const TAIL = 1000 // where a stream begins in a channel without ids
const NEAR_PIXELS = 200
const END_PIXELS = 8
const AGAIN_SECONDS = 3

export class View {
  constructor() {
    this.scroller = $('events')
    this.chart = new Chart($('chart'))
    this.list = new List($('rows'), () => this.stop())
    this.top = 0
    this.scroller.addEventListener('scroll', () => this.scrolled())
    new ResizeObserver(() => this.following && this.toEnd()).observe(this.scroller)
    $('jump').onclick = () => this.toNewest()
    $('pause').onclick = () => (this.paused ? this.toNewest() : this.pause())
  }

  // Show a channel: events of a type, or of all if that is undefined, that hold a text.
  async open(channel, type, text) {
    this.close()
    const visit = (this.visit = new AbortController()).signal
    if (channel !== this.channel) this.types = new Set()
    Object.assign(this, { channel, type, text: text.toLowerCase(), shrunk: 0, isExact: true })
    Object.assign(this, { following: true, paused: false, failure: '', loading: true })
    this.begun = this.position = null // offsets; null while they are not known
    this.history = new History(channel, visit)
    this.kept = new Kept()
    this.list.clear(this.kept)
    this.chart.clear()
    this.state = { name: 'connecting', since: Date.now() }
    for (const id of ['behind', 'size', 'rate']) write($(id), '–')
    this.paint()
    this.follow = new Follow(channel, type, {
      onEvent: (event) => this.take(event),
      onState: (state) => this.show(state),
      onAnew: () => this.reopen(),
    })
    try {
      await this.begin(visit)
    } catch (error) {
      if (visit.aborted) return
      this.failure = error.message
      this.loading = false
      this.show({ name: 'failed', since: Date.now() })
      const isFinal = error.status >= 400 && error.status < 500 // such as a name that is none
      if (!isFinal) this.timer = setTimeout(() => this.reopen(), AGAIN_SECONDS * 1000)
    }
  }

  reopen() {
    this.open(this.channel, this.type, this.text)
  }

  close() {
    this.visit?.abort()
    this.follow?.close()
    clearTimeout(this.timer)
  }

  // Read the end of the file, and follow from there.
  async begin(visit) {
    if (!NAME.test(this.channel)) {
      const text = 'A channel’s name is 4 to 64 letters of A-Z a-z 0-9 _ -.'
      throw Object.assign(new Error(text), { status: 400 })
    }
    const { bytes: end } = await hub.end(this.channel)
    visit.throwIfAborted()
    const { events, start } = await this.history.last(end)
    this.begun = end
    this.position = start === null || this.type !== undefined ? null : end
    for (const event of events) this.follow.note(event.id, event.type)
    this.addEarlier(events, start) // without an id to go on from, all come with the stream
    this.follow.open(TAIL)
    this.loading = false
    this.measure().catch(() => {}) // it is asked again
    this.paint()
    if (this.kept.events.length < PAGE) await this.readEarlier(visit)
    this.paint()
  }

  // -- what comes ----------------------------------------------------------------------------

  take({ id, event: type, data }) {
    const size = sizeOf({ id, event: type, data })
    const event = { id, type, data, size, start: this.position }
    if (this.position !== null) this.position += size
    this.types.add(type)
    if (!holds(event, this.text)) return
    this.chart.now++
    const { first } = this.kept
    this.kept.add(event, this.following)
    if (this.kept.first > first) this.history.unread = this.isExact ? this.kept.events[0].start : null
    this.paint()
  }

  show(state) {
    this.state = state
    this.paint()
    showState($('state'), this.state)
  }

  // Each second: what changes by itself.
  tick() {
    if (!this.channel) return
    write($('rate'), rate(this.chart.tick()))
    write($('peak'), rate(this.chart.peak))
    showState($('state'), this.state)
  }

  // How much of the file has not arrived here.
  async measure() {
    const { channel, visit } = this
    if (!channel || this.begun === null) return
    const end = await hub.end(channel)
    if (visit !== this.visit || this.loading) return
    write($('size'), bytes(end.bytes))
    if (this.position === null) {
      write($('behind'), this.type === undefined ? 'not known' : 'not known by type')
      return
    }
    if (end.id && end.id === this.follow.lastId && end.bytes > this.position) {
      this.position = end.bytes // rows that are no events do not come
      this.isExact = false
    }
    this.shrunk = this.isExact && end.bytes < this.position ? this.shrunk + 1 : 0
    write($('behind'), bytes(Math.max(0, end.bytes - this.position)))
    if (this.shrunk > 2) this.reopen() // moved away, and begun anew
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

  async readEarlier(visit) {
    if (this.loading || !this.history.unread) return
    this.loading = true
    this.failure = ''
    this.paint()
    try {
      await this.history.earlier(PAGE, (events, start) => this.addEarlier(events, start))
    } catch (error) {
      if (visit.aborted) return
      this.failure = error.message
    }
    this.loading = false
  }

  async earlier() {
    const visit = this.visit.signal
    this.stop()
    if (this.list.from === this.kept.first) await this.readEarlier(visit)
    if (visit.aborted) return
    this.keepPlace('firstElementChild', () => this.list.showEarlier())
    this.paint()
  }

  // -- the window ----------------------------------------------------------------------------

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller
    const below = scrollHeight - scrollTop - clientHeight
    const up = scrollTop < this.top
    this.top = scrollTop
    if (up && below > END_PIXELS) {
      this.stop()
      if (scrollTop < NEAR_PIXELS && !this.loading && !this.failure) this.earlier()
    } else if (!up && below < NEAR_PIXELS && !this.following) {
      const shown = this.keepPlace('lastElementChild', () => this.list.showLater())
      if (!shown && this.list.isAtEnd && below <= END_PIXELS && !this.paused) this.toNewest()
    }
  }

  // Change rows, and leave those that stay where they are on the screen.
  keepPlace(which, change) {
    const row = $('rows')[which]
    const place = row?.getBoundingClientRect().top
    const result = change()
    if (row?.isConnected) this.scroller.scrollTop += row.getBoundingClientRect().top - place
    this.top = this.scroller.scrollTop
    return result
  }

  stop() {
    if (!this.following) return
    this.following = false
    this.paint()
  }

  pause() {
    this.paused = true
    this.following = false
    this.paint()
  }

  toNewest() {
    if (this.kept.missed) {
      this.reopen()
      return
    }
    this.paused = false
    this.following = true
    this.paint()
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight
    this.top = this.scroller.scrollTop
  }

  // -- painting: once a frame, however much has come ------------------------------------------

  paint() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null
      this.painted()
    })
  }

  painted() {
    const { kept, list } = this
    if (this.following) {
      list.showNewest()
      this.toEnd()
    }
    this.paintAbove()
    const isEmpty = kept.events.length === 0 && !this.loading && !this.history.unread
    $('no-events').hidden = !isEmpty || !!this.failure
    $('above').hidden = isEmpty && !this.failure
    $('above').classList.toggle('failed', !!this.failure)
    if (isEmpty) this.paintEmpty()
    const newer = kept.end - list.to + kept.missed
    if (this.following) this.leave($('jump'), 'lastElementChild')
    $('jump').hidden = this.following
    write($('jump'), newer ? `${number(newer)} newer ↓` : 'To the newest ↓')
    $('pause').setAttribute('aria-pressed', this.paused)
    showLine($('view-curl'), this.line())
    this.scroller.setAttribute('aria-busy', this.loading)
  }

  paintAbove() {
    const place = $('above')
    const [text, name, action] = this.above()
    write(place.firstChild ?? place.appendChild(make('span')), text)
    if (!place.children[1]) place.append(make('button', { type: 'button' }))
    const button = place.children[1]
    if (!name) this.leave(button, 'firstElementChild')
    button.hidden = !name
    write(button, name ?? '')
    button.onclick = action ?? null
  }

  // Before a button is hidden: whoever is on it goes on at a row, not at the start of the page.
  leave(button, which) {
    if (document.activeElement === button) $('rows')[which]?.firstChild.focus()
  }

  // Return what stands above the events: a text, and the name of a button and what that does.
  above() {
    const { unread } = this.history
    const isEmpty = this.kept.events.length === 0
    const earlier = ['Earlier events', () => this.earlier()]
    const anew = () => this.reopen()
    if (this.loading) return isEmpty ? ['Reading …'] : ['Reading …', ...earlier]
    if (this.failure) return [this.failure, 'Try again', unread === null ? anew : earlier[1]]
    if (this.list.from > this.kept.first) return ['', ...earlier]
    if (unread === null) return ['Earlier events are no longer in this page.', 'Read anew', anew]
    if (unread === 0) return ['The channel begins here.']
    if (!this.text && this.type === undefined) return ['', ...earlier]
    const searched = bytes(Math.max(0, this.begun - unread))
    const found = isEmpty ? 'Nothing' : 'No more'
    return [`${found} in the last ${searched} of the file.`, 'Search on', earlier[1]]
  }

  paintEmpty() {
    const isFiltered = this.text || this.type !== undefined
    const none = isFiltered ? 'No event like that.' : 'No event yet. This line makes the first:'
    write($('no-events-text'), none)
    $('first-curl').hidden = isFiltered
    showLine($('first-curl'), publishLine(this.channel, '', '', 'one coffee'))
  }

  // The line for the shell: what comes, or the part of the file that is on the screen.
  line() {
    const { channel, type, text, kept, list } = this
    const [first, last] = [kept.at(list.from), kept.at(list.to - 1)]
    if (this.following || !this.isExact || first?.start == null || last?.start == null) {
      return followLine(channel, type, text || undefined, LINE_TAIL)
    }
    return rangeLine(channel, type, text, first.start, last.start + last.size)
  }
}
