// The rows of events on the screen: a stretch of the kept ones, and never more than fit well.
//
// Rows are made and removed in one go for each frame, however many events came since the last.

import { detailOf } from './detail.js'
import { make, write } from './dom.js'
import { decoded } from './text.js'
import { agoOf, dateOf, dayOf, fullTimeOf, momentOf, timeOf } from './time.js'

const MAX_ROWS = 1000
const STEP = 200 // how many rows are added at once further up or down
const MAX_PREVIEW = 400 // characters of the data in a row that is closed

export class List {
  // `kept` may be replaced by another with `clear`. `onStop` is called when a person turns to a row.
  constructor(element, onStop) {
    this.element = element
    this.onStop = onStop
    this.rows = [] // {number, element}
    this.times = 'local' // how ids that are times are shown: 'local', 'ago', or 'id', as they are
    element.addEventListener('keydown', (event) => this.press(event))
    element.addEventListener('click', (event) => {
      const button = event.target.closest('.row')
      if (button) this.toggle(button)
    })
  }

  // Show events of a channel, or of several, whose events name it.
  clear(kept, channel) {
    this.kept = kept
    this.channel = channel
    delete this.element.dataset.ids
    this.from = this.to = kept.first // numbers of events
    this.rows = []
    this.element.replaceChildren()
  }

  get isAtEnd() {
    return this.to === this.kept.end && !this.kept.missed
  }

  // Show the newest: those shown already and what came since, but at least a STEP of them, and after
  // a flood no more, since each row costs time.
  showNewest() {
    const to = this.kept.end
    const least = to - STEP
    const from = this.to < least ? least : Math.max(Math.min(this.from, least), to - MAX_ROWS)
    this.show(Math.max(from, this.kept.first), to)
  }

  // Show some more above or below; return whether there were any.
  showEarlier() {
    const from = Math.max(this.kept.first, this.from - STEP)
    const grows = from < this.from
    this.show(from, Math.min(this.to, from + MAX_ROWS, this.kept.end))
    return grows
  }

  // Show what is around an event, by its number.
  showFrom(number) {
    this.show(Math.max(this.kept.first, number - STEP / 4), Math.min(this.kept.end, number + STEP))
  }

  showLater() {
    const to = Math.min(this.kept.end, this.to + STEP)
    const grows = to > this.to
    this.show(Math.max(this.from, to - MAX_ROWS), to)
    return grows
  }

  show(from, to) {
    if (from >= this.to || to <= this.from) {
      this.drop(this.rows.splice(0))
      this.from = this.to = from
    }
    const stay = [Math.max(from, this.from), Math.min(to, this.to)]
    this.drop(this.rows.splice(stay[1] - this.from))
    this.drop(this.rows.splice(0, stay[0] - this.from))
    const earlier = this.made(from, stay[0])
    const later = this.made(stay[1], to)
    this.element.prepend(...earlier.map(({ element }) => element))
    this.element.append(...later.map(({ element }) => element))
    const join = this.rows[0] // no longer the first, perhaps
    this.rows = [...earlier, ...this.rows, ...later]
    this.from = from
    this.to = to
    if (join) this.showDay(join)
    if (this.rows.length) this.showDay(this.rows[0], true)
    this.letTabReach(this.current?.isConnected ? this.current : this.rows.at(-1)?.element.firstChild)
  }

  made(from, to) {
    const rows = []
    for (let number = from; number < to; number++) {
      const row = { number, ...rowOf(this.kept.at(number)) }
      this.showTime(row)
      this.showDay(row)
      rows.push(row)
    }
    return rows
  }

  // Say where a day begins: above the first event of it, and above the first row.
  showDay({ number, element, moment }, isFirst = false) {
    const before = isFirst ? undefined : this.kept.at(number - 1)
    const last = before && momentOf(before.id)
    const isNew = moment !== null && (last == null || dateOf(moment) !== dateOf(last))
    if (isNew) element.dataset.day = dayOf(moment)
    else delete element.dataset.day
  }

  showTime({ element, moment, id }) {
    if (moment === null) this.element.dataset.ids = 'any'
    const show = { local: timeOf, ago: agoOf }[this.times]
    write(element.firstChild.firstChild, moment === null || !show ? id : show(moment))
  }

  // Show times in another way; or again, as time goes by.
  showTimes(times = this.times) {
    this.times = this.element.dataset.times = times
    for (const row of this.rows) this.showTime(row)
  }

  // Turn to the row of an event, by its number, or to the last; open it if that is wanted.
  turnTo(number, opens) {
    const row = this.rows.find((row) => row.number === number) ?? this.rows.at(-1)
    const button = row.element.firstChild
    if (opens && button.getAttribute('aria-expanded') === 'false') this.toggle(button)
    this.letTabReach(button)
    row.element.scrollIntoView({ block: opens ? 'center' : 'start' })
  }

  drop(rows) {
    const focused = rows.some(({ element }) => element.contains(document.activeElement))
    for (const { element } of rows) element.remove()
    if (focused) this.element.lastElementChild?.firstChild.focus() // not lost to the page's start
  }

  // -- a person at a row ---------------------------------------------------------------------

  letTabReach(button) {
    if (!button || button === this.current) return
    if (this.current) this.current.tabIndex = -1
    button.tabIndex = 0
    this.current = button
  }

  press(event) {
    if (!event.target.closest('.row') || event.ctrlKey || event.metaKey || event.altKey) return
    if (this.move(event.key)) event.preventDefault()
  }

  // Do what a key says: go to another row. Return whether it is such a key.
  move(key) {
    const row = this.current?.parentElement
    const next = {
      ArrowUp: row?.previousElementSibling,
      k: row?.previousElementSibling,
      ArrowDown: row?.nextElementSibling,
      j: row?.nextElementSibling,
      Home: this.element.firstElementChild,
      End: this.element.lastElementChild,
    }[key]
    if (!next) return false
    this.onStop()
    this.letTabReach(next.firstChild)
    next.firstChild.focus()
    return true
  }

  toggle(button) {
    this.onStop()
    this.letTabReach(button)
    const open = button.getAttribute('aria-expanded') === 'false'
    button.setAttribute('aria-expanded', open)
    if (!open) {
      button.nextElementSibling.remove()
      return
    }
    const index = this.rows.findIndex(({ element }) => element === button.parentElement)
    const event = this.kept.at(this.from + index)
    button.after(detailOf(event, event.channel ?? this.channel))
    button.nextElementSibling.scrollIntoView({ block: 'nearest' })
  }
}

function rowOf({ channel, id, type, data }) {
  const preview = data.slice(0, MAX_PREVIEW).replaceAll('\n', ' ↵ ')
  const moment = momentOf(id)
  const title = moment === null ? id : `${id}\n${fullTimeOf(moment)}`
  const button = make(
    'button',
    { type: 'button', className: 'row', tabIndex: -1 },
    make('span', { className: 'id', title }),
    make('span', { className: 'type', textContent: type }),
    make('span', {
      className: 'text',
      textContent: /^\s*[[{]/.test(data) ? decoded(preview) : preview,
    }),
  )
  if (channel) {
    button.children[1].prepend(make('span', { className: 'of', textContent: channel }), ' ')
  }
  button.setAttribute('aria-expanded', false)
  return { id, moment, element: make('li', {}, button) }
}
