// JSON for a person: what can be folded, and characters instead of `\u00f6`. All else stays as it is:
// no digit of a number is lost, no key that stands there twice, as with `JSON.parse(text)`.

import { make } from './dom.js'
import { decoded } from './text.js'

const TOKEN = /"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g
const MOST_TOKENS = 5000
const MOST_DEPTH = 60
const CLOSES = { '{': '}', '[': ']' }

// Whether a text is a JSON object or array.
export function isJson(text) {
  if (!/^\s*[[{]/.test(text)) return false
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

// Return the elements that show a JSON object or array; null if it is too large or deep for that.
export function treeOf(text) {
  const tokens = text.match(TOKEN)
  if (tokens.length > MOST_TOKENS) return null
  const root = make('div')
  const open = [root] // where the next line goes, the innermost last
  let line = '' // what stands before a value: its key
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at]
    if (token === ',') continue // it is with what it follows
    if (token === ':') {
      line += ': '
      continue
    }
    const comma = (end) => (tokens[end + 1] === ',' ? ',' : '')
    if (token in CLOSES && tokens[at + 1] !== CLOSES[token]) {
      if (open.length > MOST_DEPTH) return null
      const inside = make('div', { className: 'inside' })
      const summary = make('summary', { textContent: line + token })
      summary.dataset.end = ` … ${CLOSES[token]}`
      const fold = make('details', { open: true }, summary, inside)
      open.at(-1).append(fold)
      open.push(inside)
      line = ''
    } else if (token === '}' || token === ']') {
      open.pop()
      open.at(-1).append(make('div', { textContent: token + comma(at) }))
    } else {
      line += decoded(token)
      if (token in CLOSES) line += tokens[++at]
      if (tokens[at + 1] === ':') continue
      open.at(-1).append(make('div', { textContent: line + comma(at) }))
      line = ''
    }
  }
  return root
}
