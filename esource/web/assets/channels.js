// The list of channels: a page of it, asked for anew while somebody looks at it.

import { listLine } from './curl.js'
import { $, bytes, make, number, rate, showLine, write } from './dom.js'
import * as hub from './hub.js'
import { agoOf } from './time.js'

const PAGE = 200

export class Channels {
  // `onState` gets an error, or null when the hub answers; `onAdd` a channel to show as well, or no
  // longer.
  constructor(onState, onAdd) {
    Object.assign(this, { onState, onAdd })
    this.pages = [undefined] // what each page up to this one comes after
    this.items = new Map() // name -> <li>
    this.chosen = []
    $('match').addEventListener('input', () => {
      this.pages = [undefined]
      this.read()
    })
    $('back').onclick = () => this.turn(() => this.pages.pop())
    $('more').onclick = () => this.turn(() => this.pages.push(this.next))
  }

  turn(change) {
    change()
    this.read()
    $('channels').parentElement.scrollTop = 0
  }

  async read() {
    const match = $('match').value
    const after = this.pages.at(-1)
    showLine($('list-curl'), listLine(match))
    const asked = (this.asked = {}) // an answer that was overtaken does not count
    try {
      const parameters = [['limit', PAGE], ['match', match || undefined], ['after', after]]
      const page = await hub.channels(parameters)
      if (asked !== this.asked) return
      this.show(page, match)
      this.onState(null)
    } catch (error) {
      if (asked === this.asked) this.onState(error)
    }
  }

  show({ channels, total, next }, match) {
    this.next = next
    this.total = total
    this.page = new Map(channels.map((channel) => [channel.name, channel]))
    write($('total'), number(total))
    const items = channels.map((channel) => this.item(channel))
    this.items = new Map(channels.map(({ name }, index) => [name, items[index]]))
    const shown = [...$('channels').children]
    if (items.length !== shown.length || items.some((item, index) => item !== shown[index])) {
      const focused = document.activeElement
      $('channels').replaceChildren(...items)
      if (focused.isConnected && focused !== document.activeElement) focused.focus()
    }
    $('no-channels').hidden = items.length > 0
    const none = match ? 'No channel has this in its name.' : 'No channel yet.'
    write($('no-channels'), none)
    const before = (this.pages.length - 1) * PAGE
    $('pager').hidden = !next && !before
    $('back').disabled = !before
    $('more').disabled = !next
    write($('page'), `${number(before + 1)}–${number(before + items.length)}`)
  }

  item({ name, bytes: size, modified, subscribers, rate: perSecond }) {
    let item = this.items.get(name)
    if (!item) {
      const link = make(
        'a',
        { href: `?channel=${name}` },
        make('span', { className: 'channel-name', textContent: name }),
        make('span', { className: 'number' }),
        make('span', { className: 'quiet number' }),
        make('span', { className: 'quiet number' }),
      )
      const add = make('button', { type: 'button', className: 'add', textContent: '+' })
      add.onclick = () => this.onAdd(name)
      item = make('li', {}, link, add)
    }
    const link = item.firstChild
    const [, rates, facts, ago] = link.children
    write(rates, rate(perSecond))
    rates.classList.toggle('quiet', !perSecond)
    write(facts, `${bytes(size)}${subscribers ? ` · ${number(subscribers)} following` : ''}`)
    write(ago, modified ? agoOf(modified * 1000) : '')
    this.mark(name, item)
    return item
  }

  // Say whether a channel is shown, and offer to show it with those that are.
  mark(name, { firstChild: link, lastChild: add }) {
    const isShown = this.chosen.includes(name)
    if (isShown) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
    add.hidden = !this.chosen.length || (isShown && this.chosen.length === 1)
    add.setAttribute('aria-label', `Show ${name} as well`)
    add.title = isShown ? 'Leave it out' : 'Show it as well'
    add.setAttribute('aria-pressed', isShown)
    write(add, isShown ? '−' : '+')
  }

  choose(names) {
    this.chosen = names
    for (const [name, item] of this.items) this.mark(name, item)
  }

  // What the list says of a channel, if it is on this page of it.
  get(name) {
    return this.page?.get(name)
  }
}
