// The page: what its address says is what it shows.
//
//     ?channel=NAME&type=TYPE&text=TEXT      `type=` for events without one; no `type` for all
//     ?channel=NAME&channel=NAME             several channels in one view
//     ?channel=NAME#ID                       from an event on, or from a time
//     ?channel=NAME&from=start               from the beginning

import { showHealth, showVersion } from './about.js'
import { Channels } from './channels.js'
import { LINE_TAIL, followLine, publishLine } from './curl.js'
import { $, make, number, showLine, write } from './dom.js'
import * as keys from './keys.js'
import { prefer, preference } from './preferences.js'
import { Publish } from './publish.js'
import { View } from './view.js'

const POLL_SECONDS = 2
const TYPING_SECONDS = 0.3
const HEALTH_SECONDS = 30
const MOST_CHANNELS = 16 // in one view: the hub's limit

const channels = new Channels(showTrouble, add)
const view = new View(() => go({ at: undefined }))
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

// A jump is in all of one channel: without a type, and without a text.
function parameters() {
  const query = new URLSearchParams(location.search)
  const [type, text] = ['type', 'text'].map((name) => query.get(name))
  const names = [...new Set(query.getAll('channel'))].slice(0, MOST_CHANNELS)
  const id = query.get('from') === 'start' ? '' : fragment()
  if (id !== null && names.length === 1) return { names, type: undefined, text: '', at: { id } }
  return { names, type: type ?? undefined, text: text ?? '', at: undefined }
}

function fragment() {
  const text = location.hash.slice(1)
  try {
    return decodeURIComponent(text) || null
  } catch {
    return text // that nobody has encoded
  }
}

// Go to another view.
function go(change, replaces = false) {
  const { names, type, text, at } = { ...parameters(), ...change }
  const query = new URLSearchParams(names.map((name) => ['channel', name]))
  if (type !== undefined) query.set('type', type)
  if (text) query.set('text', text)
  if (at?.id === '') query.set('from', 'start')
  const hash = at?.id ? `#${encodeURIComponent(at.id)}` : ''
  const url = (query.size ? `?${query}` : location.pathname) + hash
  history[replaces ? 'replaceState' : 'pushState'](null, '', url)
  show()
}

function jump(id) {
  const { names } = parameters()
  if (names.length === 1) go({ type: undefined, text: '', at: { id } })
}

function add(name) {
  const { names } = parameters()
  const others = names.filter((other) => other !== name)
  go({ names: others.length < names.length ? others : [...names, name], at: undefined })
}

function show() {
  const { names, type, text, at } = parameters()
  const isOther = names.join() !== view.reader?.channels.join()
  document.body.dataset.view = names.length ? 'channel' : 'list'
  document.title = names.length ? `${names.join(', ')} – esource` : 'esource'
  $('welcome').hidden = names.length > 0
  $('view').hidden = !names.length
  channels.choose(names)
  if (isOther) publish.suggest(names[0])
  channels.read()
  if (!names.length) {
    view.close()
    return
  }
  write($('title'), names.join(', '))
  if ($('text').value !== text) $('text').value = text
  for (const id of ['jump-form', 'to-start']) $(id).hidden = names.length > 1
  view.open(names, type, text, at)
  showTypes(type)
}

// A link to a channel changes the address without loading the page again.
document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href^="?"]')
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
  event.preventDefault()
  const names = new URLSearchParams(link.getAttribute('href')).getAll('channel')
  go({ names, type: undefined, text: '', at: undefined })
  if (matchMedia('(max-width: 45rem)').matches && names.length) $('main').focus()
})
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault()
  const row = document.querySelector('.row[tabindex="0"]')
  ;(row ?? $('main')).focus()
})
addEventListener('popstate', show) // another fragment, too

// -- what is shown of a channel ----------------------------------------------------------------

const ALL = 'all'
const NONE = 'none'
const OTHER = 'other'
const LOCAL_TIME = /^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?$/ // without a zone
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
  const type = value === ALL ? undefined : value === NONE ? '' : value.slice(NAMED.length)
  go({ type, at: undefined })
})
$('other').addEventListener('change', () => {
  const type = $('other').value.trim()
  $('other').value = ''
  $('other-field').hidden = true
  go({ type: type || undefined, at: undefined })
})
$('text').addEventListener('input', () => {
  clearTimeout(typing)
  const change = { text: $('text').value, at: undefined }
  typing = setTimeout(() => go(change, true), TYPING_SECONDS * 1000)
})
$('jump-form').addEventListener('submit', (event) => {
  event.preventDefault()
  const text = $('jump-to').value.trim()
  $('jump-to').value = ''
  if (text) jump(LOCAL_TIME.test(text) ? utcOf(text) : text)
})
function utcOf(text) {
  const [day, time = '00:00'] = text.split(/[T ]/)
  return new Date(`${day}T${time}`).toISOString()
}

$('to-start').onclick = () => jump('')

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
  const { names } = parameters()
  const listed = names.map((name) => channels.get(name)).filter(Boolean)
  const followers = listed.reduce((sum, { subscribers }) => sum + subscribers, 0)
  write($('followers'), listed.length ? number(followers) : '–')
  const segments = listed.reduce((sum, { segments: count = 0 }) => sum + count, 0)
  $('segments-fact').hidden = segments <= names.length
  write($('segments'), number(segments))
}, 1000)
document.addEventListener('visibilitychange', poll)

async function check() {
  if (!document.hidden) await showHealth().catch(() => {}) // that it does not answer is said already
}

setInterval(check, HEALTH_SECONDS * 1000)

// -- what a person likes -----------------------------------------------------------------------

function showTimes(times) {
  $('times').value = times
  view.list.showTimes(times)
}

function showWrap(on) {
  $('wrap').setAttribute('aria-pressed', on)
  $('rows').classList.toggle('wrap', on)
}

$('times').onchange = ({ target: { value } }) => {
  prefer('times', value)
  showTimes(value)
}
$('wrap').onclick = () => {
  const on = $('wrap').getAttribute('aria-pressed') === 'false'
  prefer('wrap', on)
  showWrap(on)
}
$('more-tools').onclick = ({ currentTarget: button }) => {
  const on = button.getAttribute('aria-expanded') === 'false'
  button.setAttribute('aria-expanded', on)
  $('view').classList.toggle('unfolded', on)
}
keys.listen({
  '/': () => !$('view').hidden && ($('view').classList.add('unfolded'), $('text').focus()),
  j: () => view.list.move('j'),
  k: () => view.list.move('k'),
  g: () => jump(''),
  n: () => view.channel && view.toNewest(),
})

write($('host'), location.host)
showTimes(preference('times', 'local'))
showWrap(preference('wrap', false))
show()
check()
showVersion().catch(() => {}) // it stays empty
