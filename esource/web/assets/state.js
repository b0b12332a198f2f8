// The state of a stream, in words. A screen reader is told of a change, not of each second.

import { make, write } from './dom.js'

const WORDS = {
  connecting: 'Connecting',
  open: 'Live',
  reconnecting: 'Reconnecting',
  asleep: 'Asleep while this tab is hidden',
  past: 'In the past',
  waiting: 'Closed by the hub',
  failed: 'Not connected',
}

// Show {name, since, until}: when it began, and when something is done about it, if that is known.
export function showState(element, { name, since, until }) {
  if (!element.firstChild) element.append(make('span'), make('span', { className: 'number' }))
  const [word, time] = element.children
  time.setAttribute('aria-hidden', true)
  element.dataset.state = name
  write(word, WORDS[name])
  const seconds = Math.round(Math.abs(Date.now() - (until || since)) / 1000)
  const times = { reconnecting: `· lost ${seconds} s ago`, waiting: `· next try in ${seconds} s` }
  write(time, times[name] ?? '')
}
