// The list of channels: a page of it, asked for anew while somebody looks at it.

import { listLine } from './curl.js'
import { $, bytes, make, number, rate, showLine, write } from './dom.js'
import * as hub from './hub.js'

const PAGE = 200

export class Channels {
  // `onState` gets an error, or null when the hub answers.
  constructor(onState) {
    this.onState = onState
    this.pages = [undefined] // what each page up to this one comes after
    this.items = new Map() // name -> <li>
    this.chosen = undefined
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
      item = make('li', {}, link)
    }
    const link = item.firstChild
    const [, rates, facts, ago] = link.children
    write(rates, rate(perSecond))
    rates.classList.toggle('quiet', !perSecond)
    write(facts, `${bytes(size)}${subscribers ? ` · ${number(subscribers)} following` : ''}`)
    write(ago, modified ? since(modified) : '')
    if (name === this.chosen) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
    return item
  }

  choose(name) {
    this.chosen = name
    for (const [other, { firstChild }] of this.items) {
      if (other === name) firstChild.setAttribute('aria-current', 'page')
      else firstChild.removeAttribute('aria-current')
    }
  }

  // What the list says of a channel, if it is on this page of it.
  get(name) {
    return this.page?.get(name)
  }
}

function since(modified) {
  const seconds = Math.max(0, Date.now() / 1000 - modified)
  if (seconds < 2) return 'now'
  if (seconds < 60) return `${Math.round(seconds)} s ago`
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h ago`
  return new Date(modified * 1000).toISOString().slice(0, 10)
}
