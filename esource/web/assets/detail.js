// An event that is open: all of its data, and what can be taken from it.

import { publishLine } from './curl.js'
import { bytes, copyButton, make } from './dom.js'
import { address } from './hub.js'
import { isJson, treeOf } from './json.js'
import { agoOf, fullTimeOf, momentOf } from './time.js'

const MAX_TEXT = 200_000 // characters that are shown

// Return the address of the page at an event.
export function linkTo(channel, id) {
  return `${address('', [['channel', channel]])}#${encodeURIComponent(id)}`
}

export function rowText({ id, type, data }) {
  return [id, type, data.replaceAll('\n', '\v')].join('\t')
}

export function detailOf(event, channel) {
  const { id, type, data, size } = event
  const place = make('div')
  const tools = make('div', { className: 'detail-tools' })
  const tree = data.length <= MAX_TEXT && isJson(data) ? treeOf(data) : null
  const raw = make('pre', { tabIndex: 0, textContent: data.slice(0, MAX_TEXT) })
  if (data.length > MAX_TEXT) raw.append(' … the rest is not shown')
  named(raw)
  if (tree) {
    tree.className = 'json'
    tree.tabIndex = 0
    named(tree)
    const toggle = make('button', { type: 'button', textContent: 'As a tree' })
    const press = (on) => {
      toggle.setAttribute('aria-pressed', on)
      place.replaceChildren(on ? tree : raw)
    }
    toggle.onclick = () => press(toggle.getAttribute('aria-pressed') === 'false')
    press(true)
    tools.append(toggle)
  } else {
    place.append(raw)
  }
  const copies = make('span', { className: 'copies' }, make('span', { textContent: 'Copy' }))
  const add = (name, text) => copies.append(copyButton(name, () => text, `Copy ${name}`))
  add('data', data)
  add('row', rowText(event))
  if (id) {
    add('id', id)
    add('link', linkTo(channel, id))
  }
  add('curl', publishLine(channel, type, id, data))
  copies.lastChild.title = 'The line that publishes this event'
  tools.append(copies)
  const moment = momentOf(id)
  const facts = make('span', { className: 'quiet number', textContent: bytes(size) })
  if (moment !== null) facts.prepend(`${fullTimeOf(moment)} · ${agoOf(moment)} · `)
  return make('div', { className: 'detail' }, tools, facts, place)
}

function named(element) {
  element.setAttribute('role', 'group')
  element.setAttribute('aria-label', 'Data')
}
