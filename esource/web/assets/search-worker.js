// A search, beside the page, so that the page answers meanwhile. It reads a channel backwards, in
// parts, and looks through each as it arrives. A part is as large as is quick to read, since each
// begins with waiting for the hub.
//
// Gets {source, mark, text, least, most}. For each part it tells {events, start, count}: what was
// found there, where the part begins, and how many rows it has; or {error}. It ends at the
// beginning, after `most` events, and after `least` bytes; then it tells {isOver}.

import { blocksOf } from './blocks.js'
import { eventsOfFound, found } from './scan.js'
import { sourceFrom } from './source.js'
import { patternOf } from './text.js'

const LF = 10
const FIRST_BYTES = 1 << 18
const MOST_BYTES = 1 << 26
const QUICK_MS = 200 // a part that took less is followed by a larger one,
const SLOW_MS = 1000 // and one that took more by a smaller one

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
  const largest = Math.min(MOST_BYTES, least / 2)
  let size = FIRST_BYTES
  for (let total = 0; mark.offset > stop && total < most; ) {
    const began = performance.now()
    const part = await source.part(mark, size)
    const { rows, count, skipped, read } = await looked(part, pattern, most)
    source.learn(read, count)
    if (!count && part.from > source.first) {
      if (size === largest) throw new Error('An event here is too large.')
    } else {
      // Of a part that holds too many, the rest is looked through another time.
      const isCut = rows.length === most
      const behind = isCut ? count - rows[0].number : count
      const offset = part.from + (isCut ? rows[0].start : skipped)
      const start = isCut || !part.start ? await source.back(mark, offset, behind) : part.start
      const events = eventsOfFound(rows, count, plain.type === undefined ? part.from : null)
      total += events.length
      postMessage({ events, start, count: behind })
      if (isCut) return
      mark = start
    }
    const took = performance.now() - began
    if (!count || took < QUICK_MS) size = Math.min(size * 4, largest)
    else if (took > SLOW_MS) size = Math.max(size / 2, FIRST_BYTES)
  }
}

// Look through a part of a channel. Return {rows, count} as `found` does, how many bytes were read,
// and how many of them `skipped`, since its first row is not whole.
async function looked({ stream, length, isCut }, pattern, most) {
  let [rows, count, at, skipped] = [[], 0, 0, 0]
  for await (const block of blocksOf(stream)) {
    if (!at && isCut) skipped = block.indexOf(LF) + 1
    const begin = at || skipped
    const part = found(at ? block : block.subarray(skipped), pattern, most)
    for (const { text, start, number } of part.rows) {
      rows.push({ text, start: begin + start, number: count + number })
    }
    if (rows.length >= 2 * most) rows = rows.slice(-most)
    count += part.count
    at += block.length
  }
  if (at && length !== undefined && at !== length) throw new Error('The channel is another one now.')
  return { rows: rows.slice(-most), count, skipped, read: at }
}
