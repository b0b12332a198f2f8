// The lines for a shell that do what a view does.

import { address } from './hub.js'
import { patternOf } from './text.js'

export const LINE_TAIL = 100 // how many events such a line begins with

// Quote a word for a POSIX shell; one that needs no quotes gets none.
export function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}

export function listLine(match) {
  return `curl -s ${quote(address('-/channels', [['match', match || undefined]]))}`
}

// Rows as they come, after the last `tail`, or from the beginning if that is null.
export function followLine(channel, type, text, tail) {
  const start = tail === null ? ['after', ''] : ['tail', tail]
  const url = address(channel, [['event', type], start, ['follow', 1]])
  return `curl -sN ${quote(url)}${grep(text, '--line-buffered ')}`
}

// The rows of a part of the file: what the list shows when it stands still.
export function rangeLine(channel, text, from, to) {
  return `curl -s -r ${from}-${to - 1} ${quote(address(channel))}${grep(text, '')}`
}

// So many rows before the event with an id, or before the end if that is undefined.
export function beforeLine(channel, type, id, count) {
  const url = address(channel, [['event', type], ['before', id], ['tail', count]])
  return `curl -s ${quote(url)}`
}

// Several channels as they come, after the last `tail` events of each, as JSON.
export function severalLine(channels, type, text, tail) {
  const names = channels.map((channel) => ['channel', channel])
  const url = address('-/read', [...names, ['event', type], ['tail', tail], ['follow', 1]])
  return `curl -sN ${quote(url)}${grep(text, '--line-buffered ')}`
}

export function publishLine(channel, event, id, data) {
  const url = address(channel, [['event', event || undefined], ['id', id || undefined]])
  const option = data.startsWith('@') ? '--data-raw' : '-d' // which takes `@name` for a file
  return `curl ${option} ${quote(data)} ${quote(url)}`
}

function grep(text, options) {
  if (!text) return ''
  const { source, isPlain } = patternOf(text)
  return ` | grep ${options}${isPlain ? '-iF' : '-iE'} -e ${quote(isPlain ? text : source)}`
}
