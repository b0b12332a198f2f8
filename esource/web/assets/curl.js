// The lines for a shell that do what a view does.

import { address } from './hub.js'

export const LINE_TAIL = 100 // how many events such a line begins with

// Quote a word for a POSIX shell; one that needs no quotes gets none.
export function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}

export function listLine(match) {
  return `curl -s ${quote(address('-/channels', [['match', match || undefined]]))}`
}

// Rows as they come, after the last few: what the list of events shows.
export function followLine(channel, type, text, tail) {
  const url = address(channel, [['event', type], ['tail', tail], ['follow', 1]])
  return `curl -sN ${quote(url)}${grep(text, '--line-buffered ')}`
}

// The rows of a part of the file: what the list shows when it stands still.
export function rangeLine(channel, type, text, from, to) {
  const rows = `curl -s -r ${from}-${to - 1} ${quote(address(channel))}`
  const typed = type === undefined ? '' : ` | awk -F '\\t' -v type=${awkValue(type)} '$2 == type'`
  return rows + typed + grep(text, '')
}

export function publishLine(channel, event, id, data) {
  const url = address(channel, [['event', event || undefined], ['id', id || undefined]])
  const option = data.startsWith('@') ? '--data-raw' : '-d' // which takes `@name` for a file
  return `curl ${option} ${quote(data)} ${quote(url)}`
}

function grep(text, options) {
  return text ? ` | grep ${options}-iF -e ${quote(text.replaceAll('\n', '\v'))}` : ''
}

function awkValue(value) {
  return quote(value.replaceAll('\\', '\\\\')) // awk reads escapes in it
}
