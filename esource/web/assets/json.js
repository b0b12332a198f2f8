// JSON, indented. Only white space changes: no digit of a number is lost, no key that stands
// there twice, as `JSON.stringify(JSON.parse(text))` would.

const TOKEN = /"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g

// Return the text indented, or null if it is no JSON object or array.
export function indented(text) {
  if (!/^\s*[[{]/.test(text)) return null
  try {
    JSON.parse(text)
  } catch {
    return null
  }
  const parts = []
  let depth = 0
  let last = ''
  const line = () => parts.push('\n' + '  '.repeat(Math.min(depth, 40)))
  for (const [token] of text.matchAll(TOKEN)) {
    const closes = token === '}' || token === ']'
    if (closes) depth--
    const isEmpty = closes && (last === '{' || last === '[')
    if (closes ? !isEmpty : last === '{' || last === '[' || last === ',') line()
    parts.push(token === ':' ? ': ' : token)
    if (token === '{' || token === '[') depth++
    last = token
  }
  return parts.join('')
}
