// What is shown of one channel: the window that follows its newest events or stands still further
// up, and what is said around it. What there is to see, a reader has.

import { Chart } from './chart.js'
import { LINE_TAIL, followLine, publishLine, rangeLine } from './curl.js'
import { $, bytes, make, number, rate, showLine, write } from './dom.js'
import { List } from './list.js'
import { Reader } from './reader.js'
import { showState } from './state.js'

const NEAR_PIXELS = 200
const END_PIXELS = 8

export class View {
  constructor() {
    this.scroller = $('events')
    this.chart = new Chart($('chart'))
    this.list = new List($('rows'), () => this.stop())
    this.top = 0
    this.scroller.addEventListener('scroll', () => this.scrolled())
    new ResizeObserver(() => this.reader?.following && this.toEnd()).observe(this.scroller)
    $('jump').onclick = () => this.toNewest()
    $('pause').onclick = () => (this.paused ? this.toNewest() : this.pause())
  }

  get channel() {
    return this.reader?.channel
  }

  // Show a channel: events of a type, or of all if that is undefined, that hold a text.
  open(channel, type, text) {
    if (channel !== this.channel) this.types = new Set()
    this.close()
    this.reader = new Reader({ channel, type, text, types: this.types }, {
      onEvent: () => this.count(),
      onChange: () => this.paint(),
      onAnew: () => this.reopen(),
    })
    this.paused = false
    this.list.clear(this.reader.kept)
    this.chart.clear()
    for (const id of ['rate', 'peak']) write($(id), '–')
    this.paint()
    this.reader.open()
  }

  reopen() {
    const { channel, type, text } = this.reader
    this.open(channel, type, text)
  }

  close() {
    this.reader?.close()
    this.reader = undefined
  }

  count() {
    this.chart.now++
    this.paint()
  }

  // Each second: what changes by itself.
  tick() {
    if (!this.reader) return
    write($('rate'), rate(this.chart.tick()))
    write($('peak'), rate(this.chart.peak))
    showState($('state'), this.reader.state)
  }

  async measure() {
    await this.reader?.measure()
    this.paint()
  }

  // -- the window ----------------------------------------------------------------------------

  scrolled() {
    if (!this.reader) return
    const { loading, failure, following } = this.reader
    const { scrollTop, scrollHeight, clientHeight } = this.scroller
    const below = scrollHeight - scrollTop - clientHeight
    const up = scrollTop < this.top
    this.top = scrollTop
    if (up && below > END_PIXELS) {
      this.stop()
      if (scrollTop < NEAR_PIXELS && !loading && !failure) this.earlier()
    } else if (!up && below < NEAR_PIXELS && !following) {
      const shown = this.keepPlace('lastElementChild', () => this.list.showLater())
      if (!shown && this.list.isAtEnd && below <= END_PIXELS && !this.paused) this.toNewest()
    }
  }

  async earlier() {
    const { reader } = this
    this.stop()
    if (this.list.from === reader.kept.first) await reader.readEarlier()
    if (reader !== this.reader) return
    this.keepPlace('firstElementChild', () => this.list.showEarlier())
    this.paint()
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
    if (!this.reader.following) return
    this.reader.following = false
    this.paint()
  }

  pause() {
    this.paused = true
    this.reader.following = false
    this.paint()
  }

  toNewest() {
    if (this.reader.kept.missed) {
      this.reopen()
      return
    }
    this.paused = false
    this.reader.following = true
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
    const { reader, list } = this
    if (!reader) return
    const { kept, following, loading, failure } = reader
    if (following) {
      list.showNewest()
      this.toEnd()
    }
    showState($('state'), reader.state)
    this.paintFile()
    this.paintAbove()
    const isEmpty = kept.events.length === 0 && !loading && !reader.history.unread
    $('no-events').hidden = !isEmpty || !!failure
    $('above').hidden = isEmpty && !failure
    $('above').classList.toggle('failed', !!failure)
    if (isEmpty) this.paintEmpty()
    const newer = kept.end - list.to + kept.missed
    if (following) this.leave($('jump'), 'lastElementChild')
    $('jump').hidden = following
    write($('jump'), newer ? `${number(newer)} newer ↓` : 'To the newest ↓')
    $('pause').setAttribute('aria-pressed', this.paused)
    showLine($('view-curl'), this.line())
    this.scroller.setAttribute('aria-busy', loading)
  }

  paintFile() {
    const { size, behind, type } = this.reader
    write($('size'), size === null ? '–' : bytes(size))
    const unknown = type === undefined ? 'not known' : 'not known by type'
    write($('behind'), size === null ? '–' : behind === null ? unknown : bytes(behind))
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
    const { type, text, begun, kept, loading, failure, isRefused } = this.reader
    const { unread } = this.reader.history
    const isEmpty = kept.events.length === 0
    const earlier = ['Earlier events', () => this.earlier()]
    const anew = () => this.reopen()
    if (loading) return isEmpty ? ['Reading …'] : ['Reading …', ...earlier]
    if (isRefused) return [failure]
    if (failure) return [failure, 'Try again', unread === null ? anew : earlier[1]]
    if (this.list.from > kept.first) return ['', ...earlier]
    if (unread === null) return ['Earlier events are no longer in this page.', 'Read anew', anew]
    if (unread === 0) return ['The channel begins here.']
    if (!text && type === undefined) return ['', ...earlier]
    const searched = bytes(Math.max(0, begun - unread))
    const found = isEmpty ? 'Nothing' : 'No more'
    return [`${found} in the last ${searched} of the file.`, 'Search on', earlier[1]]
  }

  paintEmpty() {
    const { channel, type, text } = this.reader
    const isFiltered = text || type !== undefined
    const none = isFiltered ? 'No event like that.' : 'No event yet. This line makes the first:'
    write($('no-events-text'), none)
    $('first-curl').hidden = isFiltered
    showLine($('first-curl'), publishLine(channel, '', '', 'one coffee'))
  }

  // The line for the shell: what comes, or the part of the file that is on the screen.
  line() {
    const { channel, type, text, kept, following, isExact } = this.reader
    const { list } = this
    const [first, last] = [kept.at(list.from), kept.at(list.to - 1)]
    if (following || !isExact || first?.start == null || last?.start == null) {
      return followLine(channel, type, text || undefined, LINE_TAIL)
    }
    return rangeLine(channel, type, text, first.start, last.start + last.size)
  }
}
