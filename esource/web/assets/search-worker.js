// A search, beside the page, so that the page answers meanwhile. It reads a channel backwards, in
// parts: the next one is on its way while one is looked through.
//
// Gets {source, mark, pattern, least, most}. For each part it tells {events, start, rows}: what was
// found there, where the part begins, and how many rows it has; or {error}. It ends at the
// beginning, after `most` events, and after `least` bytes; then it tells {isOver}.

import { patternOf } from './text.js'
import { countRows, eventsOfFound, found } from './scan.js'
import { sourceFrom } from './source.js'

const FIRST_BYTES = 1 << 18
const MOST_BYTES = 1 << 24

addEventListener('message', async ({ data }) => {
  try {
    await search(data)
    postMessage({ isOver: true })
  } catch (error) {
    postMessage({ error: error.message })
  }
})

async function search({ source: plain, mark, text, least, most }) {
  const source = sourceFrom(plain)
  const pattern = patternOf(text)
  const stop = Math.max(source.first, mark.offset - least)
  let size = FIRST_BYTES
  let next = source.before(mark, size)
  for (let total = 0; mark.offset > stop && total < most; ) {
    const { bytes, start } = await next
    if (start.offset === mark.offset && size === MOST_BYTES) {
      throw new Error('An event here is too large.')
    }
    mark = start
    size = Math.min(size * 4, MOST_BYTES)
    if (mark.offset > stop) {
      next = source.before(mark, size)
      next.catch(() => {}) // it is told when it is waited for, or nobody wants to know
    }
    const rows = found(bytes, pattern, most)
    // Of a part that holds too many, the rest is looked through another time.
    const isPart = rows.length === most && source.isRanged
    const begin = isPart ? { offset: mark.offset + rows[0].start } : mark
    const events = eventsOfFound(rows, plain.type === undefined ? mark.offset : null)
    total += events.length
    postMessage({ events, start: begin, rows: countRows(bytes) })
    if (isPart) return
  }
}
