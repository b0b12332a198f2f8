// What a person looks for, as one pattern: for events that come, for the search, and for `grep -E`.
//
// In JSON a character can stand there in another way: `ö` as `\u00f6`, `"` as `\"`, `<` as `\u003c`.
// The pattern finds each of them, in capitals or not.

const ESCAPED = /[\\^$.*+?()[{|]/ // what has a meaning in a pattern

// Return {regex, source, isPlain} of a text, or null of none. If it is plain, the text can be looked
// for as it is. A line break is the VT that stands for it in a row.
export function patternOf(text) {
  if (!text) return null
  const pieces = [...text.replaceAll('\n', '\v')].map(pieceOf)
  const source = pieces.map(([piece]) => piece).join('')
  return { source, regex: new RegExp(source, 'i'), isPlain: pieces.every(([, isPlain]) => isPlain) }
}

function pieceOf(character) {
  if (character === '\\') return ['\\\\(\\\\)?', false]
  if (character === '"' || character === '/') return [`(\\\\)?${character}`, false]
  if (ESCAPED.test(character)) return ['\\' + character, true]
  if (character < '\x7f' && !'<>&'.includes(character)) return [character, true]
  const forms = [character, character.toLowerCase(), character.toUpperCase()]
  return [`(${[character, ...new Set(forms.map(escapeOf))].join('|')})`, false]
}

function escapeOf(text) {
  const units = text.split('') // of UTF-16, as JSON has them
  return units.map((unit) => '\\\\u' + unit.charCodeAt(0).toString(16).padStart(4, '0')).join('')
}

// Whether an event's row holds what a pattern says; each does, if there is none.
export function holds({ id, type, data }, pattern) {
  return !pattern || pattern.regex.test(`${id}\t${type}\t${data.replaceAll('\n', '\v')}`)
}

const ESCAPE = /\\(?:u([0-9a-fA-F]{4})|.)/g
// Controls, what changes the direction, halves of a pair, and what ends or escapes a JSON string.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}"\\]/u

// Return JSON with its `\u00f6` as characters, where a person can see them; all else is as it was.
export function decoded(json) {
  if (!json.includes('\\u')) return json
  const pairs = /\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})/gi
  const seen = (units, escape) => {
    const text = String.fromCharCode(...units.map((unit) => parseInt(unit, 16)))
    return !text.isWellFormed() || UNSEEN.test(text) ? escape : text
  }
  return json
    .replace(ESCAPE, (escape, unit) => (unit ? seen([unit], escape) : escape))
    .replace(pairs, (escape, high, low) => seen([high, low], escape))
}
