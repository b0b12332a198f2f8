// The page: what its address says is what it shows.
//
//     ?channel=NAME&type=TYPE&text=TEXT      `type=` for events without one; no `type` for all

import { Channels } from './channels.js'
import { LINE_TAIL, followLine, publishLine } from './curl.js'
import { $, make, number, showLine, write } from './dom.js'
import { Publish } from './publish.js'
import { View } from './view.js'

const POLL_SECONDS = 2
const TYPING_SECONDS = 0.3

const channels = new Channels(showTrouble)
const view = new View()
const publish = new Publish()
let typing
let isPolling = false

function showTrouble(error) {
  document.body.dataset.hub = error ? 'away' : 'there'
  write($('trouble'), error ? `${error.message} Asking again every ${POLL_SECONDS} s.` : '')
  if (!error) showWelcome()
}

function showWelcome() {
  const isNew = channels.total === 0 && !$('match').value
  write($('welcome-title'), isNew ? 'No channel yet' : 'Choose a channel')
  const text = isNew
    ? 'The first event makes one, by this line or by the form below:'
    : 'Its events appear here, and the next ones as they come. In a shell:'
  write($('welcome-text'), text)
  const line = isNew
    ? publishLine('orders', '', '', 'one coffee')
    : followLine('NAME', undefined, '', LINE_TAIL)
  showLine($('welcome-curl'), line)
}

// -- the address -------------------------------------------------------------------------------

function parameters() {
  const query = new URLSearchParams(location.search)
  const [channel, type, text] = ['channel', 'type', 'text'].map((name) => query.get(name))
  return { channel, type: type ?? undefined, text: text ?? '' }
}

function go(change, replaces = false) {
  const { channel, type, text } = { ...parameters(), ...change }
  const query = new URLSearchParams()
  if (channel) query.set('channel', channel)
  if (type !== undefined) query.set('type', type)
  if (text) query.set('text', text)
  const url = query.size ? `?${query}` : location.pathname
  history[replaces ? 'replaceState' : 'pushState'](null, '', url)
  show()
}

function show() {
  const { channel, type, text } = parameters()
  const isOther = channel !== view.channel
  document.body.dataset.view = channel ? 'channel' : 'list'
  document.title = channel ? `${channel} – esource` : 'esource'
  $('welcome').hidden = !!channel
  $('view').hidden = !channel
  channels.choose(channel)
  if (isOther) publish.suggest(channel)
  channels.read()
  if (!channel) {
    view.close()
    return
  }
  write($('title'), channel)
  if ($('text').value !== text) $('text').value = text
  view.open(channel, type, text)
  showTypes(type)
}

// A link to a channel changes the address without loading the page again.
document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href^="?"]')
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
  event.preventDefault()
  const channel = new URLSearchParams(link.getAttribute('href')).get('channel')
  go({ channel, type: undefined, text: '' })
  if (matchMedia('(max-width: 45rem)').matches && channel) $('main').focus()
})
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault()
  const row = document.querySelector('.row[tabindex="0"]')
  ;(row ?? $('main')).focus()
})
addEventListener('popstate', show)

// -- what is shown of a channel ----------------------------------------------------------------

const ALL = 'all'
const NONE = 'none'
const OTHER = 'other'
const NAMED = 'named:' // in front of a type, so that none can be taken for one of those

function showTypes(chosen) {
  const types = new Set(view.types)
  types.delete('')
  if (chosen) types.add(chosen)
  const known = [...types].sort()
  const value = chosen === undefined ? ALL : chosen ? NAMED + chosen : NONE
  const select = $('type')
  const text = JSON.stringify(known)
  if (select.dataset.known !== text) {
    select.dataset.known = text
    select.replaceChildren(
      make('option', { value: ALL, textContent: 'All' }),
      make('option', { value: NONE, textContent: 'None' }),
      ...known.map((type) => make('option', { value: NAMED + type, textContent: type })),
      make('option', { value: OTHER, textContent: 'Another …' }),
    )
  }
  if ($('other-field').hidden || chosen !== undefined) {
    $('other-field').hidden = true
    select.value = value
  }
}

$('type').addEventListener('change', () => {
  const { value } = $('type')
  $('other-field').hidden = value !== OTHER
  if (value === OTHER) {
    $('other').focus()
    return
  }
  go({ type: value === ALL ? undefined : value === NONE ? '' : value.slice(NAMED.length) })
})
$('other').addEventListener('change', () => {
  const type = $('other').value.trim()
  $('other').value = ''
  $('other-field').hidden = true
  go({ type: type || undefined })
})
$('text').addEventListener('input', () => {
  clearTimeout(typing)
  typing = setTimeout(() => go({ text: $('text').value }, true), TYPING_SECONDS * 1000)
})

// -- what is asked for again and again ---------------------------------------------------------

async function poll() {
  if (document.hidden || isPolling) return
  isPolling = true
  await Promise.all([channels.read(), view.measure().catch(() => {})]) // the list says it already
  isPolling = false
}

setInterval(poll, POLL_SECONDS * 1000)
setInterval(() => {
  view.tick()
  if (!view.channel) return
  showTypes(parameters().type)
  const { subscribers } = channels.get(view.channel) ?? {}
  write($('followers'), subscribers === undefined ? '–' : number(subscribers))
}, 1000)
document.addEventListener('visibilitychange', poll)

write($('host'), location.host)
show()
