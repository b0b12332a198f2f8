// The rows of events on the screen: a stretch of the kept ones, and never more than fit well.
//
// Rows are made and removed in one go for each frame, however many events came since the last.

import { bytes, copy, make } from './dom.js'
import { indented } from './json.js'

const MAX_ROWS = 1000
const STEP = 200 // how many rows are added at once further up or down
const MAX_PREVIEW = 400 // characters of the data in a row that is closed
const MAX_TEXT = 200_000 // and in one that is open

export class List {
  // `kept` may be replaced by another with `clear`. `onStop` is called when a person turns to a row.
  constructor(element, onStop) {
    this.element = element
    this.onStop = onStop
    this.rows = [] // {number, element}
    element.addEventListener('keydown', (event) => this.press(event))
    element.addEventListener('click', (event) => {
      const button = event.target.closest('.row')
      if (button) this.toggle(button)
    })
  }

  clear(kept) {
    this.kept = kept
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
    this.rows = [...earlier, ...this.rows, ...later]
    this.from = from
    this.to = to
    this.letTabReach(this.current?.isConnected ? this.current : this.rows.at(-1)?.element.firstChild)
  }

  made(from, to) {
    const rows = []
    for (let number = from; number < to; number++) {
      rows.push({ number, element: rowOf(this.kept.at(number)) })
    }
    return rows
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
    const button = event.target.closest('.row')
    if (!button) return
    const row = button.parentElement
    const next = {
      ArrowUp: row.previousElementSibling,
      ArrowDown: row.nextElementSibling,
      Home: this.element.firstElementChild,
      End: this.element.lastElementChild,
    }[event.key]
    if (!next) return
    event.preventDefault()
    this.onStop()
    this.letTabReach(next.firstChild)
    next.firstChild.focus()
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
    button.after(detailOf(this.kept.at(this.from + index)))
    button.nextElementSibling.scrollIntoView({ block: 'nearest' })
  }
}

function rowOf(event) {
  const { id, type, data } = event
  const button = make(
    'button',
    { type: 'button', className: 'row', tabIndex: -1 },
    make('span', { className: 'id', textContent: id }),
    make('span', { className: 'type', textContent: type }),
    make('span', {
      className: 'text',
      textContent: data.slice(0, MAX_PREVIEW).replaceAll('\n', ' ↵ '),
    }),
  )
  button.setAttribute('aria-expanded', false)
  return make('li', {}, button)
}

function detailOf({ data, size }) {
  const pretty = indented(data)
  const text = make('pre', { tabIndex: 0 })
  text.setAttribute('role', 'group')
  text.setAttribute('aria-label', 'Data')
  const show = (what) => {
    text.textContent = what.slice(0, MAX_TEXT)
    if (what.length > MAX_TEXT) text.append(' … the rest is not shown')
  }
  const tools = make('div', { className: 'detail-tools' })
  if (pretty !== null) {
    const toggle = make('button', { type: 'button', textContent: 'Pretty JSON' })
    const press = (on) => {
      toggle.setAttribute('aria-pressed', on)
      show(on ? pretty : data)
    }
    toggle.onclick = () => press(toggle.getAttribute('aria-pressed') === 'false')
    press(true)
    tools.append(toggle)
  } else {
    show(data)
  }
  const button = make('button', { type: 'button', textContent: 'Copy data' })
  button.onclick = () => copy(text, button)
  tools.append(button, make('span', { className: 'quiet number', textContent: bytes(size) }))
  return make('div', { className: 'detail' }, tools, text)
}
