// What is shown of one channel: the window that follows its newest events or stands still further
// up, and what is said around it. What there is to see, a reader has.

import { Chart } from './chart.js'
import * as curl from './curl.js'
import { $, bytes, make, number, rate, save, showLine, write } from './dom.js'
import { fileOf, fileOfChannel } from './export.js'
import { List } from './list.js'
import { Reader } from './reader.js'
import { Several } from './several.js'
import { showState } from './state.js'
import { agoOf, momentOf } from './time.js'

const NEAR_PIXELS = 200
const END_PIXELS = 8

export class View {
  // `onNewest` is called when a person wants to go from where they are to the newest events.
  constructor(onNewest) {
    this.onNewest = onNewest
    this.scroller = $('events')
    this.chart = new Chart($('chart'))
    this.list = new List($('rows'), () => this.stop())
    this.top = 0
    this.scroller.addEventListener('scroll', () => this.scrolled())
    new ResizeObserver(() => this.reader?.following && this.toEnd()).observe(this.scroller)
    $('jump').onclick = () => this.toNewest()
    $('pause').onclick = () => (this.paused ? this.toNewest() : this.pause())
    $('export').onchange = ({ target }) => {
      this.export(target.value)
      target.value = ''
    }
    $('stop').onclick = () => this.exporting?.abort()
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.reader?.sleep()
      else this.reader?.wake()
    })
  }

  get channel() {
    return this.reader?.channel
  }

  // Show channels: events of a type, or of all if that is undefined, that hold a text; from `at` on,
  // as a reader takes it.
  open(channels, type, text, at) {
    if (channels.join() !== this.reader?.channels.join()) this.types = new Set()
    this.close()
    const isAsleep = document.hidden
    const wanted = { channel: channels[0], channels, type, text, at, types: this.types, isAsleep }
    this.reader = new (channels.length > 1 ? Several : Reader)(wanted, {
      onEvent: () => this.count(),
      onChange: () => this.paint(),
      onAnew: () => this.reopen(),
    })
    this.paused = false
    this.list.clear(this.reader.kept, channels[0])
    this.chart.clear()
    for (const id of ['rate', 'peak']) write($(id), '–')
    this.paint()
    this.reader.open()
  }

  reopen() {
    const { channels, type, text, at } = this.reader
    this.open(channels, type, text, at)
  }

  close() {
    this.exporting?.abort()
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
    if (this.list.times === 'ago') this.list.showTimes()
    const moment = momentOf(this.reader.kept.events.at(-1)?.id ?? '')
    const isNewest = !this.reader.kept.missed && !this.reader.later
    write($('newest'), moment === null || !isNewest ? '–' : agoOf(moment))
    this.paint() // how far a search is
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
      if (!shown && this.reader.later && !loading && !failure) this.later()
      else if (!shown && this.list.isAtEnd && below <= END_PIXELS && !this.paused) this.toNewest()
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

  async later() {
    const { reader } = this
    await reader.readLater()
    if (reader !== this.reader) return
    this.keepPlace('lastElementChild', () => this.list.showLater())
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
    if (this.reader.at && (this.reader.later || this.reader.kept.missed)) return this.onNewest()
    if (this.reader.kept.missed) return this.reopen()
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
    const { kept, following, loading, failure, history } = reader
    const isToBegin = reader.at && list.from === list.to
    if (isToBegin && !loading) this.begin()
    if (following) {
      list.showNewest()
      this.toEnd()
    } else if (!isToBegin && list.from > kept.first && this.scroller.scrollTop < NEAR_PIXELS) {
      // Whoever is at the top already cannot scroll up to what a search has found since.
      this.keepPlace('firstElementChild', () => list.showEarlier())
    }
    showState($('state'), reader.state)
    this.paintFile()
    this.paintAbove()
    const isEmpty = kept.events.length === 0 && !loading && (!history || history.isAll)
    $('no-events').hidden = !isEmpty || !!failure
    $('above').hidden = isEmpty && !failure
    $('above').classList.toggle('failed', !!failure)
    if (isEmpty) this.paintEmpty()
    const newer = reader.later ? 0 : kept.end - list.to + kept.missed
    if (following) this.leave($('jump'), 'lastElementChild')
    $('jump').hidden = following
    write($('jump'), newer ? `${number(newer)} newer ↓` : 'To the newest ↓')
    $('pause').setAttribute('aria-pressed', this.paused)
    showLine($('view-curl'), this.line())
    this.scroller.setAttribute('aria-busy', loading)
  }

  // After a jump: show what was read there, and turn to the event.
  begin() {
    const { kept } = this.reader
    if (!kept.events.length) return
    const first = kept.events.findIndex(({ start }) => start >= this.reader.from)
    const number = first < 0 ? kept.end : kept.first + first
    this.list.showFrom(number)
    this.list.turnTo(number, kept.at(number)?.id === this.reader.at.id)
    this.top = this.scroller.scrollTop
  }

  paintFile() {
    const { size, behind, channels, type } = this.reader
    write($('size'), size === null ? '–' : bytes(size))
    write($('behind'), behind === null ? '–' : bytes(behind))
  }

  paintAbove() {
    const place = $('above')
    const [text, name, action] = this.above()
    this.paintProgress()
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

  paintProgress() {
    const { searching } = this.reader
    const [part, all] = searching ? [searching.looked, searching.all] : (this.exported ?? [0, 0])
    $('stop').hidden = !this.exporting
    $('progress').hidden = !searching && !this.exporting
    $('progress-bar').value = all ? part / all : 0
    $('progress-bar').hidden = !all
  }

  // Return what stands above the events: a text, and the name of a button and what that does.
  above() {
    const { reader, list } = this
    const { type, text, begun, kept, loading, failure, isRefused, history, searching } = reader
    const isEmpty = kept.events.length === 0
    const earlier = ['Earlier events', () => this.earlier()]
    const anew = () => this.reopen()
    if (searching) {
      const { looked, all, rate, found } = searching
      const far = `${bytes(looked)} of ${bytes(all)} searched, ${bytes(rate)}/s`
      return [`${far}; ${number(found)} found.`, 'Stop', () => reader.stopSearch()]
    }
    if (loading) return isEmpty ? ['Reading …'] : ['Reading …', ...earlier]
    if (isRefused) return [failure]
    const isLost = !history?.unread
    if (failure) return [failure, 'Try again', isLost ? anew : earlier[1]]
    if (list.from > kept.first) return ['', ...earlier]
    if (!history) return [`The last ${reader.tail} events of each channel.`]
    if (isLost) return ['Earlier events are no longer in this page.', 'Read anew', anew]
    if (history.isAll) {
      return [history.unread.offset > 3 ? 'Older events were removed.' : 'The channel begins here.']
    }
    if (!text) return ['', ...earlier]
    const looked = bytes(Math.max(0, begun - history.unread.offset))
    const rest = bytes(history.unread.offset - history.source.first)
    const what = `${isEmpty ? 'Nothing' : 'No more'} in the last ${looked}.`
    return [what, `Search all ${rest} before`, () => reader.search()]
  }

  paintEmpty() {
    const { channels, type, text } = this.reader
    const isFiltered = text || type !== undefined || channels.length > 1
    const none = isFiltered ? 'No event like that.' : 'No event yet. This line makes the first:'
    write($('no-events-text'), none)
    $('first-curl').hidden = isFiltered
    showLine($('first-curl'), curl.publishLine(channels[0], '', '', 'one coffee'))
  }

  // The line for the shell: what comes, or the part of the channel that is on the screen.
  line() {
    const { reader, list } = this
    const { channel, channels, type, text, kept, following, history, isExact, later } = reader
    if (channels.length > 1) return curl.severalLine(channels, type, text, reader.tail)
    const [first, last] = [kept.at(list.from), kept.at(list.to - 1)]
    const live = () => curl.followLine(channel, type, text, this.tail(first))
    if (following || !first || !last) return live()
    const isRanged = history?.source.isRanged && isExact
    if (isRanged && first.start != null && last.start != null) {
      return curl.rangeLine(channel, text, first.start, last.start + last.size)
    }
    if (text) return live()
    const next = kept.at(list.to)?.id ?? later?.id
    return curl.beforeLine(channel, type, next, list.to - list.from)
  }

  // Return with how many of the last events the line begins, so that it prints those on the screen,
  // of which `first` is the first; null: with all.
  tail(first) {
    const { text, history, kept, come, unreadRow } = this.reader
    if (!text) return first ? this.list.to - this.list.from : curl.LINE_TAIL
    if (history?.isAll && this.list.from === kept.first) return null
    return come - (first?.row ?? unreadRow)
  }

  // -- taking it along -----------------------------------------------------------------------

  // Give the person all events that this view would show, in a form, as a file.
  async export(form) {
    const { reader } = this
    const name = `${reader.channels.join('+')}.${form}`
    if (reader.channels.length > 1) return save(name, fileOf(reader.kept.events, form))
    this.exporting?.abort()
    const exporting = (this.exporting = new AbortController())
    write($('exported'), 'Exporting …')
    try {
      const blob = await fileOfChannel(reader, form, exporting.signal, (part, all) => {
        this.exported = [part, all]
        const far = all ? `${bytes(part)} of ${bytes(all)}` : bytes(part)
        write($('exported'), `Exporting: ${far} read.`)
        this.paint()
      })
      save(name, blob)
      write($('exported'), `Exported ${bytes(blob.size)}.`)
    } catch (error) {
      write($('exported'), exporting.signal.aborted ? 'Export stopped.' : error.message)
    }
    if (this.exporting === exporting) this.exporting = this.exported = null
    this.paint()
  }
}
